"""open_clip's contrastive losses without the logits: ``ClipLoss``, ``SigLipLoss``, and what is built on them.

    from simtile.integrations.open_clip import ClipLoss        or        simtile.patch("open_clip")

Constructors, attributes, ``forward`` and results are those of ``open_clip.loss``, whose classes these extend; the
gradients of ``logit_scale`` and ``logit_bias`` too. Gathering and exchanging features among processes is left to
open_clip, so that each combination of ``local_loss`` and ``gather_with_grad``, and each ``dist_impl``, has the gradient
that it has there. The loss is float32 for 16-bit features, and under autocast features are taken in autocast's dtype,
as a product of matrices would.

Not fused, because it is made of the logits: ``DistillClipLoss``, and a subclass that overrides ``get_logits`` or
``get_ground_truth`` (it keeps its own, with one warning). The same holds for a scale or bias of several elements.
"""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    from open_clip import loss as original
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

import torch
from torch import Tensor

from simtile.functional import info_nce, pair_softplus, sigmoid_loss
from simtile.integrations._autocast import as_in_a_product
from simtile.integrations._patch import Patch
from simtile.integrations._warn import warn_once

__all__ = ["ClipLoss", "CoCaLoss", "SigLipLoss"]


class ClipLoss(original.ClipLoss):
    """``open_clip.ClipLoss`` by :func:`simtile.functional.info_nce`.

    ``local_loss`` without ``gather_with_grad`` computes what the original does and warns once: features of other
    processes get no gradient there, so its direction is not that of the loss over the whole batch.
    """

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss of image and text features (B, D), as a tensor or as ``{"contrastive_loss": loss}``."""
        if _needs_logits(self, ClipLoss, logit_scale, logit_bias):
            dense: Tensor | dict[str, Tensor] = super().forward(
                image_features, text_features, logit_scale, logit_bias, output_dict
            )
            return dense
        image, text = as_in_a_product(image_features), as_in_a_product(text_features)
        if self.world_size > 1:
            loss = self._over_processes(image, text, logit_scale)
        else:
            loss = _info_nce(image, text, logit_scale, symmetric=True)
        if isinstance(logit_bias, Tensor) and logit_bias.requires_grad:
            # A softmax does not see it; in the graph it stays, because DDP waits for every parameter's gradient.
            loss = loss + 0.0 * logit_bias.reshape(())
        return {"contrastive_loss": loss} if output_dict else loss

    def _over_processes(self, image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
        all_image, all_text = original.gather_features(
            image, text, local_loss=self.local_loss, gather_with_grad=self.gather_with_grad, rank=self.rank,
            world_size=self.world_size, use_horovod=self.use_horovod,
        )  # fmt: skip
        if not self.local_loss:
            return _info_nce(all_image, all_text, scale, symmetric=True)
        if not self.gather_with_grad:
            warn_once(
                "open_clip: local_loss=True without gather_with_grad=True leaves out the gradient by the features of "
                "other processes, so its direction is wrong; pass gather_with_grad=True"
            )
        # The own rows to the front, where info_nce looks for each pair; the order of the others has no meaning.
        start = self.rank * image.shape[0]
        to_text = _info_nce(image, all_text.roll(-start, 0), scale)
        to_image = _info_nce(text, all_image.roll(-start, 0), scale)
        return (to_text + to_image) / 2


class CoCaLoss(original.CoCaLoss, ClipLoss):
    """``open_clip.CoCaLoss``, its contrastive part by :class:`ClipLoss`, which comes next in the method resolution."""


class SigLipLoss(original.SigLipLoss):
    """``open_clip.loss.SigLipLoss`` by :func:`simtile.functional.sigmoid_loss`, every ``dist_impl`` included."""

    def _loss(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        negative_only: bool = False,
    ) -> Tensor:
        """The sum over all pairs divided by B; ``negative_only``: the texts are another process's."""
        if _needs_logits(self, SigLipLoss, logit_scale, logit_bias):
            dense: Tensor = super()._loss(image_features, text_features, logit_scale, logit_bias, negative_only)
            return dense
        image, text = as_in_a_product(image_features), as_in_a_product(text_features)
        bias = 0.0 if logit_bias is None else logit_bias
        if not negative_only:
            return sigmoid_loss(image, text, scale=logit_scale, bias=bias, normalize=False)
        rows = torch.as_tensor(bias, dtype=torch.promote_types(image.dtype, torch.float32), device=image.device)
        return pair_softplus(image, text, scale=logit_scale, x_bias=rows.expand(image.shape[0]))


def _needs_logits(loss: object, base: type, *scalars: Tensor | float | None) -> bool:
    """Whether the original has to compute this, with one warning if so."""
    for name in ("get_logits", "get_ground_truth"):
        if getattr(type(loss), name) is not getattr(base, name):
            warn_once(f"simtile: {type(loss).__name__} overrides {name}, so the logits are computed as in open_clip")
            return True
    if any(isinstance(value, Tensor) and value.numel() != 1 for value in scalars):
        warn_once("simtile: logit_scale or logit_bias of several elements, so the logits are computed as in open_clip")
        return True
    return False


def _info_nce(query: Tensor, key: Tensor, scale: Tensor | float, *, symmetric: bool = False) -> Tensor:
    """InfoNCE at ``scale`` = 1 / temperature."""
    if not isinstance(scale, Tensor):
        return info_nce(query, key, temperature=1.0 / scale, symmetric=symmetric, normalize=False)
    if query.dtype in (torch.float32, torch.float64):
        # A small batch notices each torch call: scaled rows take fewer than two reciprocals and their gradients.
        query = query * scale.to(query)
        return info_nce(query, key, temperature=1.0, symmetric=symmetric, normalize=False)
    # 16-bit rows are not rounded once more, and a plan that depends on their length sees the scale.
    return info_nce(query, key, temperature=scale.reciprocal(), symmetric=symmetric, normalize=False)


PATCH = Patch(
    packages=("open_clip", "open_clip_train"),
    classes={
        original.ClipLoss: ClipLoss,
        original.CoCaLoss: CoCaLoss,
        original.SigLipLoss: SigLipLoss,
    },
)
