"""CLIP and SigLIP models of transformers, trained without the B×B logits.

    simtile.patch("transformers")        before or after models are made

In training mode ``CLIPModel`` and ``SiglipModel`` called with ``return_loss=True`` compute the loss from embeddings.
``logits_per_image`` and ``logits_per_text`` of the output are then None and not among its keys; everything else is as
ever. Where only the loss is looked at, as ``transformers.Trainer`` does, nothing changes. All other calls are the
original's: in ``eval()`` mode (logits and loss for metrics), without ``return_loss``, and with ``return_dict=False``,
whose places in a tuple would shift.

The logits of a training step, where they are wanted, are two lines: ``outputs.text_embeds @ outputs.image_embeds.T *
model.logit_scale.exp()``, for SigLIP ``+ model.logit_bias``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from simtile._extras import missing_extra

try:
    from transformers.models.clip import modeling_clip
    from transformers.models.siglip import modeling_siglip
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

import torch
from torch import Tensor

from simtile.functional import info_nce, sigmoid_loss
from simtile.integrations._autocast import as_in_a_product
from simtile.integrations._patch import Patch

if TYPE_CHECKING:
    from collections.abc import Callable

    Forward = Callable[..., Any]

__all__ = ["clip_loss", "siglip_loss"]


def clip_loss(model: modeling_clip.CLIPModel, text_embeds: Tensor, image_embeds: Tensor) -> Tensor:
    """The loss that ``CLIPModel`` returns, of unit text and image embeddings (B, D)."""
    temperature = model.logit_scale.to(text_embeds.device).neg().exp()
    return info_nce(text_embeds, image_embeds, temperature=temperature, symmetric=True, normalize=False)


def siglip_loss(model: modeling_siglip.SiglipModel, text_embeds: Tensor, image_embeds: Tensor) -> Tensor:
    """The loss that ``SiglipModel`` returns, of unit text and image embeddings (B, D)."""
    scale, bias = (part.to(text_embeds.device) for part in (model.logit_scale.exp(), model.logit_bias))
    return sigmoid_loss(text_embeds, image_embeds, scale=scale, bias=bias, normalize=False)


def _without_logits(original: Forward, loss_of: Callable[[Any, Tensor, Tensor], Tensor], output: type) -> Forward:
    """``original`` with another way for training steps; its signature is kept, which ``Trainer`` inspects."""

    @functools.wraps(original)
    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> Any:
        text = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        image = {"pixel_values": pixel_values, "interpolate_pos_encoding": interpolate_pos_encoding}
        return_dict = kwargs.get("return_dict")
        if not (return_loss and self.training and (self.config.return_dict if return_dict is None else return_dict)):
            return original(self, **text, **image, return_loss=return_loss, **kwargs)
        vision_outputs = self.get_image_features(**image, **kwargs)
        text_outputs = self.get_text_features(**text, **kwargs)
        image_embeds, text_embeds = map(_unit, (vision_outputs.pooler_output, text_outputs.pooler_output))
        here = image_embeds.to(text_embeds.device)
        return output(
            loss=loss_of(self, as_in_a_product(text_embeds), as_in_a_product(here)),
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )

    return forward


def _unit(embeds: Tensor) -> Tensor:
    unit: Tensor = embeds / torch.linalg.vector_norm(embeds, dim=-1, keepdim=True)
    return unit


PATCH = Patch(
    packages=(),
    methods={
        (modeling_clip.CLIPModel, "forward"): _without_logits(
            modeling_clip.CLIPModel.forward, clip_loss, modeling_clip.CLIPOutput
        ),
        (modeling_siglip.SiglipModel, "forward"): _without_logits(
            modeling_siglip.SiglipModel.forward, siglip_loss, modeling_siglip.SiglipOutput
        ),
    },
)
