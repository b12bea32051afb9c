"""Drop-ins that gather embeddings by the host library, on two processes: each process's loss and gradients."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

pytest.importorskip("pytorch_metric_learning")
pytest.importorskip("sentence_transformers")

from pytorch_metric_learning import losses as metric_losses
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from sentence_transformers.sentence_transformer import losses as sentence_losses

import distributed_cases
from differential import assert_same, in_dtype, loss_and_gradients
from simtile.integrations import metric_learning, sentence_transformers
from tiny_sentence_model import Given

B, D = 6, 5  # on each process

RANKING = [
    {"directions": ("query_to_doc", *more), "partition_mode": mode, "hardness_mode": hardness, "hardness_strength": 2.0}
    for more, mode, hardness in (
        ((), "joint", None),
        (("doc_to_query",), "per_direction", None),
        (("doc_to_query",), "per_direction", "all_negatives"),
        (("query_to_query", "doc_to_query", "doc_to_doc"), "joint", None),
        (("query_to_query", "doc_to_query", "doc_to_doc"), "joint", "in_batch_negatives"),
        (("doc_to_doc",), "joint", "hard_negatives"),
    )
]
GUIDED = [{"margin": 0.1, "contrast_anchors": flag, "contrast_positives": flag} for flag in (False, True)]


def ranking(module, options, *embeddings):
    loss = module.MultipleNegativesRankingLoss(None, scale=3.0, gather_across_devices=True, **options)
    return loss.compute_loss_from_embeddings(list(embeddings), None)


def guided(module, options, *embeddings):
    model = Given("embedding")
    loss = module.CachedGISTEmbedLoss(model, model, temperature=0.4, gather_across_devices=True, **options)
    guides = [[part.detach().flip(1) + 0.3] for part in embeddings]
    return loss.calculate_loss([[part] for part in embeddings], guides)


def wrapped(module, options, *embeddings):
    loss = DistributedLossWrapper(getattr(module, options["name"])(temperature=0.5), efficient=options["efficient"])
    return loss(embeddings[0], torch.arange(B) % 3 + torch.distributed.get_rank())


CASES = [
    *((ranking, sentence_transformers, sentence_losses, options) for options in RANKING),
    *((guided, sentence_transformers, sentence_losses, options) for options in GUIDED),
    *(
        (wrapped, metric_learning, metric_losses, {"name": name, "efficient": efficient})
        for name, efficient in itertools.product(("NTXentLoss", "SupConLoss"), (False, True))
    ),
]


def compare(rank, world_size, folder):
    """(case, dtype, ours, the original's in float64) of every case on this rank, saved."""
    warnings.filterwarnings("ignore", ".*is deprecated", FutureWarning)  # the originals gather by older functions
    generator = torch.Generator().manual_seed(rank)
    inputs = {f"column{part}": torch.randn(B, D, generator=generator) / D**0.5 for part in range(3)}

    def loss_of(run, module, options, dtype):
        return loss_and_gradients(lambda **e: run(module, options, *e.values()), in_dtype(inputs, dtype))

    found = []
    for (run, mine, theirs, options), dtype in itertools.product(CASES, (torch.float32, torch.float64)):
        results = loss_of(run, mine, options, dtype), loss_of(run, theirs, options, torch.float64)
        found.append((str(options), dtype, *results))
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
def test_every_rank_has_the_originals_loss_and_gradients(tmp_path):
    distributed_cases.start(compare, 2, tmp_path)
    for rank in range(2):
        for options, dtype, mine, theirs in torch.load(tmp_path / f"{rank}.pt"):
            try:
                assert_same(mine, theirs, dtype)
            except AssertionError as error:
                raise AssertionError(f"rank {rank} {options} {dtype}: {error}") from error
