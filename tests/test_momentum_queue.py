"""MoCo's queue and momentum encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from simtile.functional import info_nce
from simtile.losses import MomentumQueue, momentum_update


def test_holds_the_last_keys_whatever_the_batches():
    queue, seen = MomentumQueue(7, 3), torch.randn(40, 3)
    start = 0
    for size in (2, 4, 4, 1, 9, 0, 3):
        queue.push(seen[start : start + size])
        start += size
        want = nn.functional.normalize(seen[max(0, start - 7) : start])
        order = torch.cdist(want, queue.keys()).argmin(1)
        assert queue.keys().shape == want.shape and len(set(order.tolist())) == len(want)
        torch.testing.assert_close(queue.keys()[order], want)


def test_as_negatives_it_equals_appended_keys_without_their_gradient():
    query, key, queue = (
        torch.randn(5, 3, requires_grad=True),
        torch.randn(5, 3, requires_grad=True),
        MomentumQueue(8, 3),
    )
    old = torch.randn(8, 3)
    queue.push(old)
    got = info_nce(query, key, negatives=queue.keys())
    torch.testing.assert_close(got, info_nce(query, torch.cat([key, old])))
    got.backward()
    assert query.grad.any() and not queue.rows.requires_grad


def test_is_saved_with_its_place():
    queue, other = MomentumQueue(4, 2), MomentumQueue(4, 2)
    queue.push(torch.randn(6, 2))
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.push(torch.ones(1, 2))
    assert torch.equal(queue.rows, other.rows) and other.filled == 4


def test_the_follower_moves_by_its_share():
    follower, leader = nn.Linear(3, 2), nn.Linear(3, 2)
    want = [0.9 * a + 0.1 * b for a, b in zip(follower.parameters(), leader.parameters(), strict=True)]
    momentum_update(follower, leader, momentum=0.9)
    torch.testing.assert_close(list(follower.parameters()), want)
    momentum_update(follower, leader, momentum=0.0)
    torch.testing.assert_close(follower.weight, leader.weight)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="size, width: at least 1, got 0, 3"):
        MomentumQueue(0, 3)
    with pytest.raises(ValueError, match=r"keys: shape \(B, 2\), got \(3, 4\)"):
        MomentumQueue(5, 2).push(torch.ones(3, 4))
    with pytest.raises(ValueError, match="momentum: a number from 0 to 1"):
        momentum_update(nn.Linear(1, 1), nn.Linear(1, 1), momentum=1.5)
    with pytest.raises(ValueError, match="leader: the parameters of follower"):
        momentum_update(nn.Linear(1, 1), nn.Linear(2, 1))
