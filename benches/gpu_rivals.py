"""The losses and searches that simtile's kernels are raced against, each called as its README says.

A rival is a function that makes the loss and both gradients (or the best k), or None where its package is missing. The
inputs are normalised rows; no rival gets credit or blame for normalisation.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
Search = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def step(loss: Loss) -> Step:
    """Loss and gradients of x and y through autograd."""

    def run(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        value = loss(x, y)
        return (value.detach(), *torch.autograd.grad(value, (x, y)))

    return run


def two_sided(scale: float, compiled: bool) -> dict[str, Step]:
    """CLIP's loss: the mean of both directions' cross-entropies."""

    def dense(x: Tensor, y: Tensor) -> Tensor:
        logits = scale * x @ y.T
        own = torch.arange(len(x), device=x.device)
        return (F.cross_entropy(logits.float(), own) + F.cross_entropy(logits.T.float(), own)) / 2

    rivals = {"torch": step(dense)}
    if compiled:
        rivals["torch.compile"] = step(torch.compile(dense))
    if installed("open_clip"):
        from open_clip.loss import ClipLoss

        open_clip = ClipLoss()
        rivals["open_clip"] = step(lambda x, y: open_clip(x, y, torch.tensor(scale, device=x.device)))
    if installed("memeff"):
        from memeff import MemoryEfficientCLIPLoss

        # stable=False: the textbook gradient; the default rescales it with the batch size.
        memeff = MemoryEfficientCLIPLoss(temperature=1 / scale, normalized_inputs=True, stable=False)
        rivals["memeff"] = step(memeff)
    if installed("inf_cl"):
        from inf_cl import cal_flash_loss

        def inf_cl(x: Tensor, y: Tensor) -> Tensor:
            factor = torch.tensor(scale, device=x.device)
            return (cal_flash_loss(x, y, scale=factor).mean() + cal_flash_loss(y, x, scale=factor).mean()) / 2

        rivals["inf_cl"] = step(inf_cl)
    return rivals


def one_sided(scale: float, compiled: bool) -> dict[str, Step]:
    """InfoNCE of the queries only."""

    def dense(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy((scale * x @ y.T).float(), torch.arange(len(x), device=x.device))

    rivals = {"torch": step(dense)}
    if compiled:
        rivals["torch.compile"] = step(torch.compile(dense))
    if installed("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        # The keys are the linear layer's weight, their numbers the classes.
        liger = LigerFusedLinearCrossEntropyLoss()
        rivals["liger"] = step(lambda x, y: liger(y * scale, x, torch.arange(len(x), device=x.device)))
    return rivals


def sigmoid(scale: float, bias: float, compiled: bool) -> dict[str, Step]:
    """SigLIP's loss: the sum over all pairs divided by the batch size."""

    def dense(x: Tensor, y: Tensor) -> Tensor:
        logits = (scale * x @ y.T).float() + bias
        sign = 2 * torch.eye(len(x), device=x.device) - 1
        return -F.logsigmoid(sign * logits).sum() / len(x)

    rivals = {"torch": step(dense)}
    if compiled:
        rivals["torch.compile"] = step(torch.compile(dense))
    if installed("open_clip"):
        from open_clip.loss import SigLipLoss

        open_clip = SigLipLoss()
        rivals["open_clip"] = step(
            lambda x, y: open_clip(x, y, torch.tensor(scale, device=x.device), torch.tensor(bias, device=x.device))
        )
    if installed("siglip_kernel"):
        from siglip_kernel import fused_siglip_loss

        def siglip_kernel(x: Tensor, y: Tensor) -> Tensor:
            log_temperature = torch.tensor(scale, device=x.device).log()
            return fused_siglip_loss(x, y, log_temperature, torch.tensor(bias, device=x.device))

        rivals["siglip_kernel"] = step(siglip_kernel)
    return rivals


def searches(y: Tensor) -> dict[str, Search]:
    """Exact inner-product search over the rows of y; an index is built once, here."""

    def dense(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best = torch.topk(x @ y.T, k)
        return best.values.float(), best.indices

    rivals: dict[str, Search] = {"torch": dense}
    if y.is_cuda and installed("faiss"):
        import faiss
        import faiss.contrib.torch_utils

        if hasattr(faiss, "StandardGpuResources"):
            index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), y.shape[1])
            index.add(y.float())
            rivals["faiss-gpu"] = lambda x, y, k: index.search(x.float(), k)
    if y.is_cuda and installed("cuvs"):
        from cuvs.neighbors import brute_force

        built = brute_force.build(y.float(), metric="inner_product")

        def cuvs(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
            scores, ids = brute_force.search(built, x.float(), k)
            return torch.as_tensor(scores, device=x.device), torch.as_tensor(ids, device=x.device)

        rivals["cuvs"] = cuvs
    return rivals
