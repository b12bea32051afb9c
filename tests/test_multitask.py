"""Batches of one task, and merged checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from simtile.multitask import TaskBatches, delta_merge

SIZES, BATCHES = [23, 9, 4], [4, 2, 3]


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_batch_is_of_one_task_and_ranks_share_a_task_but_no_example(world_size):
    ranks = [TaskBatches(SIZES, BATCHES, rank=r, world_size=world_size, seed=5) for r in range(world_size)]
    bounds = torch.tensor([0, 23, 32, 36])
    seen: list[int] = []
    for step in zip(*(sampler.tagged() for sampler in ranks), strict=True):
        (task,) = {task for task, _ in step}
        for _, batch in step:
            assert len(batch) == BATCHES[task]
            assert set((torch.searchsorted(bounds, torch.tensor(batch), right=True) - 1).tolist()) == {task}
            seen += batch
    assert len(seen) == len(set(seen))
    want = [n // (b * world_size) for n, b in zip(SIZES, BATCHES, strict=True)]
    assert len(ranks[0]) == sum(want) == len(list(ranks[0]))
    assert len(seen) == sum(n * b * world_size for n, b in zip(want, BATCHES, strict=True))


def test_an_epoch_is_repeated_by_its_number_and_seed():
    one, two = TaskBatches([40, 40], 4, seed=1), TaskBatches([40, 40], 4, seed=1)
    first = list(one)
    assert list(one) == first == list(two)
    two.set_epoch(1)
    assert list(two) != first
    assert list(TaskBatches([40, 40], 4, seed=2)) != first
    tasks = [task for task, _ in one.tagged()]
    assert tasks != sorted(tasks) and tasks != sorted(tasks, reverse=True)  # mixed


def test_it_drives_a_data_loader():
    data = TensorDataset(torch.arange(36))
    loader = DataLoader(data, batch_sampler=TaskBatches(SIZES, BATCHES))
    assert sorted(len(batch) for (batch,) in loader) == [2] * 4 + [3] + [4] * 5


@pytest.mark.parametrize(
    ("how", "message"),
    [({"sizes": []}, "sizes: at least one task"), ({"batch_size": [1]}, "batch_size: at least 1, for all or each"),
     ({"batch_size": 0}, "batch_size: at least 1"), ({"rank": 1}, "rank: from 0 to below world_size, 1, got 1")],
)  # fmt: skip
def test_wrong_samplers_are_named(how, message):
    with pytest.raises(ValueError, match=message):
        TaskBatches(**{"sizes": [3, 4], "batch_size": 2, **how})


def checkpoint(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)}


def test_weights_are_the_shares_of_the_distances_tensor_by_tensor():
    base, *moved = (checkpoint(seed) for seed in range(4))
    for power in (1.0, 2.5):
        merged = delta_merge(base, moved, power=power)
        for name, start in base.items():
            far = torch.stack([(part[name] - start).norm() ** power for part in moved])
            share = far / far.sum()
            want = start + sum(w * (part[name] - start) for w, part in zip(share, moved, strict=True))
            torch.testing.assert_close(merged[name], want)
        torch.testing.assert_close(merged, delta_merge(base, moved[::-1], power=power))


def test_power_zero_is_a_model_soup_and_a_single_checkpoint_is_itself():
    base, *moved = (checkpoint(seed) for seed in range(4))
    mean = {name: torch.stack([part[name] for part in moved]).mean(0) for name in base}
    torch.testing.assert_close(delta_merge(base, moved, power=0.0), mean)
    torch.testing.assert_close(delta_merge(base, moved[:1]), moved[0])


def test_a_checkpoint_that_did_not_move_has_no_say_and_where_none_moved_the_base_stays():
    base, moved = checkpoint(0), checkpoint(1)
    torch.testing.assert_close(delta_merge(base, [moved, base]), moved)
    merged = delta_merge(base, [base, base])
    assert all(torch.equal(merged[name], base[name]) and merged[name] is not base[name] for name in base)


def test_other_tensors_are_the_base_s_and_half_precision_is_summed_in_float32():
    base = {"n": torch.tensor(3), "w": torch.zeros(2, dtype=torch.float16)}
    moved = [{"n": torch.tensor(5), "w": torch.full((2,), float(v), dtype=torch.float16)} for v in (4e4, 6e4)]
    merged = delta_merge(base, moved)
    assert merged["n"] == 3 and merged["w"].dtype == torch.float16
    torch.testing.assert_close(merged["w"].float(), torch.full((2,), 5.2e4), rtol=1e-3, atol=0)


def test_checkpoints_that_do_not_fit_are_refused():
    base = checkpoint(0)
    for moved, message in (
        ([], "at least one"), ([{"w": base["w"]}], "'b' are in one only"),
        ([{**base, "b": torch.ones(3)}], "'b' of shape"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            delta_merge(base, moved)
