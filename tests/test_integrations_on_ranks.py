"""Drop-ins on two processes: every way in which the originals spread a batch, with the gradient that it has there."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

pytest.importorskip("open_clip")
pytest.importorskip("lightly")

import lightly.loss
import open_clip.loss

import distributed_cases
from differential import assert_same, in_dtype, loss_and_gradients
from simtile.integrations import lightly as our_lightly, open_clip as our_open_clip

B, D = 7, 5  # on each process

MODES = [
    *(("ClipLoss", {"local_loss": a, "gather_with_grad": b}) for a, b in itertools.product([False, True], repeat=2)),
    *(("SigLipLoss", {"dist_impl": way}) for way in (None, "bidir", "shift", "reduce", "gather")),
    *(
        ("NTXentLoss", {"gather_distributed": gather, "temperature": temperature, "memory_bank_size": bank})
        for gather, temperature, bank in itertools.product([False, True], [0.4, -0.9], [0, (20, D)])
    ),
]
WRONG = {"local_loss": True, "gather_with_grad": False}
CASES = list(itertools.product(MODES, (torch.float32, torch.float64)))


def pair_of(name, options, rank, dtype):
    """(our module, the original in float64), with the same memory bank."""
    if name != "NTXentLoss":
        options = {**options, "rank": rank, "world_size": 2}
        return getattr(our_open_clip, name)(**options), getattr(open_clip.loss, name)(**options)
    mine, theirs = our_lightly.NTXentLoss(**options), lightly.loss.NTXentLoss(**options).double()
    mine.memory_bank.bank.data = theirs.memory_bank.bank.to(dtype, copy=True)
    return mine, theirs


def both(rank, world_size, folder):
    """For each case (ours, theirs, texts of our warnings about gradients) of this rank's share of one batch, saved."""
    warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning)  # the originals gather by older functions
    found = []
    for (name, options), dtype in CASES:
        generator = torch.Generator().manual_seed(rank)
        first = torch.randn(B, D, generator=generator)
        second = first + torch.randn(B, D, generator=generator)
        if name == "NTXentLoss":
            inputs = {"out0": first, "out1": second}
        else:
            first, second = (torch.nn.functional.normalize(part) for part in (first, second))
            inputs = {"image_features": first, "text_features": second}
            inputs |= {"logit_scale": torch.tensor(4.0), "logit_bias": torch.tensor(-2.0)}
        mine, theirs = pair_of(name, options, rank, dtype)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            result = loss_and_gradients(mine, in_dtype(inputs, dtype))
        texts = [str(w.message) for w in caught if "gradient" in str(w.message)]
        found.append((result, loss_and_gradients(theirs, in_dtype(inputs, torch.float64)), texts))
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    distributed_cases.start(both, 2, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_every_mode_equals_the_original(two_ranks):
    for rank in two_ranks:
        for (mode, dtype), (mine, theirs, _) in zip(CASES, rank, strict=True):
            try:
                assert_same(mine, theirs, dtype)
            except AssertionError as error:
                raise AssertionError(f"{mode} {dtype}: {error}") from error


def test_the_one_mode_with_a_wrong_direction_warns_once(two_ranks):
    for rank in two_ranks:
        warned = [(mode, texts) for ((_, mode), _), (_, _, texts) in zip(CASES, rank, strict=True) if texts]
        assert [mode for mode, _ in warned] == [WRONG]
        assert len(warned[0][1]) == 1 and "gather_with_grad=True" in warned[0][1][0]
