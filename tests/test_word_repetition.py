"""ESimCSE's word repetition: which tokens it repeats, how often, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from simtile.augment import word_repetition


def texts(lengths, width, left=False):
    """Ids that count up from 1 a row, between two special tokens 100 and 101."""
    ids, mask, special = (torch.zeros(len(lengths), width, dtype=torch.long) for _ in range(3))
    for row, n in enumerate(lengths):
        place = slice(width - n - 2, width) if left else slice(0, n + 2)
        ids[row, place] = torch.tensor([100, *range(1, n + 1), 101])
        mask[row, place] = 1
        special[row, place] = torch.tensor([1, *[0] * n, 1])
    return ids, mask, special


@pytest.mark.parametrize("left", [False, True], ids=["right-padded", "left-padded"])
def test_tokens_keep_their_order_and_repeat_at_most_once_side_by_side(left):
    lengths = [0, 1, 2, 5, 17, 20]
    ids, mask, special = texts(lengths, 22, left)
    for seed in range(30):
        longer, kept = word_repetition(
            ids, mask, special_tokens_mask=special, generator=torch.Generator().manual_seed(seed)
        )
        assert longer.shape == kept.shape and kept[:, -1].any()  # as wide as the longest
        for row, n in enumerate(lengths):
            tokens = longer[row, kept[row].bool()].tolist()
            assert (longer[row, ~kept[row].bool()] == 0).all()
            assert tokens[0] == 100 and tokens[-1] == 101 and tokens[1:-1] == sorted(tokens[1:-1])
            assert set(tokens[1:-1]) == set(range(1, n + 1)) and all(tokens.count(t) <= 2 for t in tokens)
            assert 0 <= len(tokens) - 2 - n <= min(n, max(2, int(0.32 * n)))


def test_the_number_of_repeated_tokens_is_uniform_up_to_the_rate():
    ids, mask, special = texts([20] * 4000, 22)
    _, kept = word_repetition(ids, mask, special_tokens_mask=special, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(kept.sum(1) - 22, minlength=7)
    assert len(counts) == 7  # 0 to int(0.32 * 20) = 6
    assert ((counts - 4000 / 7).abs() < 5 * (4000 / 7) ** 0.5).all()


def test_the_same_generator_gives_the_same_and_an_empty_batch_nothing():
    ids, mask, _ = texts([6, 3], 8)
    one, two = (word_repetition(ids, mask, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert word_repetition(ids[:0], mask[:0])[0].shape == (0, 0)


def test_wrong_arguments_are_named():
    ids, mask, _ = texts([3], 5)
    with pytest.raises(ValueError, match="attention_mask: the shape of input_ids"):
        word_repetition(ids, mask[:, :2])
    with pytest.raises(ValueError, match="rate: a number from 0 to 1"):
        word_repetition(ids, mask, rate=1.5)
    with pytest.raises(ValueError, match=r"input_ids: shape \(B, T\)"):
        word_repetition(ids[0], mask[0])
