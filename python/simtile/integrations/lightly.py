"""lightly's NT-Xent without the four blocks of logits.

    from simtile.integrations.lightly import NTXentLoss        or        simtile.patch("lightly")

Constructor, memory bank, state and results are those of ``lightly.loss.NTXentLoss``, which this extends: a negative
temperature is allowed, one below 1e-8 in size is not, the bank is lightly's own and gets no gradient, and
``gather_distributed`` gathers as lightly does. The loss is float32 for 16-bit features, and under autocast features are
taken in autocast's dtype, as a product of matrices would.

The in-batch loss of 2B views z, self-pairs left out, is InfoNCE of z against z with the halves exchanged: row i then
faces its other view, and the row that is i itself carries i's id. Chen et al. 2020, arXiv:2002.05709, eq. 1.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    from lightly.loss import directclr_loss, ntx_ent_loss
    from lightly.utils import dist
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simtile.functional import info_nce, pair_nll
from simtile.integrations._autocast import as_in_a_product
from simtile.integrations._patch import Patch

__all__ = ["DirectCLRLoss", "NTXentLoss"]


class NTXentLoss(ntx_ent_loss.NTXentLoss):
    """``lightly.loss.NTXentLoss`` by :func:`simtile.functional.info_nce`, or with a bank by ``pair_nll``."""

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """The loss of two views (B, D); rows are normalised, and with a bank the second view enters it."""
        out0, out1 = normalize(out0, dim=1), normalize(out1, dim=1)
        out1, bank = self.memory_bank.forward(out1, update=out0.requires_grad)
        if bank is None:
            return self._in_batch(out0, out1)
        out0, out1 = as_in_a_product(out0), as_in_a_product(out1)
        scale = 1.0 / self.temperature
        negatives = bank.to(out0).t()  # lightly hands out the bank as (D, K)
        positive = scale * (out0 * out1).sum(1, dtype=torch.promote_types(out0.dtype, torch.float32))
        return pair_nll(out0, negatives, positive, link="softplus", scale=scale)

    def _in_batch(self, out0: Tensor, out1: Tensor) -> Tensor:
        B, device = out0.shape[0], out0.device
        own = torch.arange(B, device=device)
        ids = torch.cat([own, own + B])
        query, key, key_ids = torch.cat([out0, out1]), torch.cat([out1, out0]), torch.cat([own + B, own])
        if self.gather_distributed and dist.world_size() > 1:
            # The rows of this process go first, where info_nce looks for each pair.
            start = dist.rank() * B
            others = [torch.cat(dist.gather(part)).roll(-start, 0)[B:] for part in (out1, out0)]
            key = torch.cat([key, *others])
            key_ids = torch.cat([key_ids, torch.full((key.shape[0] - 2 * B,), -1, device=device)])
        # Each view is rounded twice, as query and as key, so that its two gradients are not added in 16 bits.
        query, key = as_in_a_product(query), as_in_a_product(key)
        return info_nce(
            query, key, temperature=_signed(self.temperature), normalize=False, query_ids=ids, key_ids=key_ids
        )


class DirectCLRLoss(directclr_loss.DirectCLRLoss, NTXentLoss):
    """``lightly.loss.DirectCLRLoss``, its loss by :class:`NTXentLoss`, which comes next in the method resolution."""


def _signed(temperature: Tensor | float) -> Tensor | float:
    """A negative number as a tensor, whose sign info_nce does not look at."""
    if isinstance(temperature, Tensor) or temperature > 0:
        return temperature
    return torch.tensor(temperature, dtype=torch.float64)


PATCH = Patch(
    packages=("lightly",),
    classes={ntx_ent_loss.NTXentLoss: NTXentLoss, directclr_loss.DirectCLRLoss: DirectCLRLoss},
)
