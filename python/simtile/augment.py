"""Views of tokenised text, for losses that compare two of them."""

from __future__ import annotations

from simtile._extras import missing_extra

try:
    import torch
    from torch import Tensor
except ModuleNotFoundError as error:
    raise missing_extra(error) from None

__all__ = ["word_repetition"]


def word_repetition(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    rate: float = 0.32,
    special_tokens_mask: Tensor | None = None,
    pad_token_id: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """ESimCSE's positive: some tokens of each text twice in a row, so that length no longer gives a pair away.

    Of a text's n tokens a number, uniform from 0 to max(2, int(rate · n)) and at most n, is repeated, at random places.

    Parameters
    ----------
    input_ids, attention_mask : integer Tensor (B, T)      as of a tokenizer; 0 in the mask is padding, on either side
    rate : float in [0, 1]      0.32 as in the paper
    special_tokens_mask : Tensor (B, T)      1 where a token must not be repeated
        (``tokenizer(..., return_special_tokens_mask=True)``)
    pad_token_id : int
    generator : torch.Generator

    Returns
    -------
    (input_ids, attention_mask), Tensor (B, T')      padded on the right to the longest

    Raises
    ------
    ValueError      shapes that differ, a rate outside of [0, 1]

    Notes
    -----
    Wu et al. 2022, arXiv:2109.04380, section 3.1. The authors' code also repeats at most 9 tokens.

    Examples
    --------
    >>> draws = torch.Generator().manual_seed(1)
    >>> ids, mask = word_repetition(torch.tensor([[7, 8, 9]]), torch.ones(1, 3), generator=draws)
    >>> ids
    tensor([[7, 7, 8, 8, 9]])
    """
    for name, part in (("attention_mask", attention_mask), ("special_tokens_mask", special_tokens_mask)):
        if part is not None and part.shape != input_ids.shape:
            raise ValueError(f"{name}: the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(part.shape)}")
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids: shape (B, T), got {tuple(input_ids.shape)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: a number from 0 to 1, got {rate}")
    kept = attention_mask.bool()
    free = kept if special_tokens_mask is None else kept & ~special_tokens_mask.bool()
    length = free.sum(1)
    most = torch.minimum((rate * length).long().clamp_min(2), length)
    draws = torch.rand(len(input_ids), generator=generator).to(input_ids.device)
    number = (draws * (most + 1)).long()
    order = torch.rand(input_ids.shape, generator=generator).to(input_ids.device).masked_fill(~free, 2.0)
    chosen = order.argsort(1).argsort(1) < number[:, None]  # the places of the row's smallest draws
    times = kept.long() + chosen.long()
    total = times.sum(1)
    places = torch.arange(int(total.max()) if len(total) else 0, device=input_ids.device)
    mask = (places < total[:, None]).long()
    longer = input_ids.new_full(mask.shape, pad_token_id)
    longer[mask.bool()] = input_ids.flatten().repeat_interleave(times.flatten())
    return longer, mask
