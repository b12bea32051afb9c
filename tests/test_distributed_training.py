"""Losses over process groups where they are used: under DDP and FSDP2, within their memory, and on wrong arguments."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

import distributed_cases as cases
from simtile import _plan, distributed
from simtile.distributed import _ranks
from simtile.functional import info_nce, sigmoid_loss
from simtile.losses import InfoNCELoss, MomentumQueue, SigLIPLoss

LOSSES = {
    "InfoNCELoss": lambda group: InfoNCELoss(0.2, learn_temperature=True, symmetric=True, process_group=group),
    "SigLIPLoss": lambda group: SigLIPLoss(learn_scale=True, process_group=group),
}
B_LOCAL, WIDTH, WORKSPACE = 512, 64, 128 << 10


class TwoTowers(nn.Module):
    """Two towers and a loss whose temperature is learnt, as one model."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.left = nn.Sequential(nn.Linear(cases.D, 12), nn.Tanh(), nn.Linear(12, 6))
        self.right = nn.Linear(cases.D, 6)
        self.loss = loss

    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return self.loss(self.left(query), self.right(key))


def gradients_of(model, query, key):
    model(query, key).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request, tmp_path_factory):
    """W and what each of W processes found."""
    W = request.param
    folder = tmp_path_factory.mktemp(f"training{W}")
    cases.start(everything, W, folder)
    return W, [torch.load(folder / f"{rank}.pt") for rank in range(W)]


def everything(rank, W, folder):
    torch.save(
        {
            "ddp": under_ddp(rank, W),
            "fsdp": under_fsdp(rank, W),
            "memory": peaks(rank),
            "disagreement": disagreement(rank),
            "mesh": two_dimensions(W),
            "queue": queued(rank, W),
            "auto": chosen_by_size(rank),
        },
        folder / f"{rank}.pt",
    )


def under_ddp(rank, W):
    values = cases.everything(torch.float64)
    mine = cases.share(cases.CASES["info_nce"], values, rank, W)
    found = {}
    for name, loss in LOSSES.items():
        model = DistributedDataParallel(TwoTowers(loss(dist.group.WORLD)).double())
        found[name] = gradients_of(model, mine["query"], mine["key"])
    return found


def under_fsdp(rank, W):
    values = cases.everything(torch.float64)
    mine = cases.share(cases.CASES["info_nce"], values, rank, W)
    mesh = init_device_mesh("cpu", (W,))
    found = {}
    for name, loss in LOSSES.items():
        model = TwoTowers(loss(mesh)).double()
        scalars = set(model.loss.parameters())  # FSDP2 shards no scalars: their mean is taken by hand, as in the docs
        fully_shard(model, mesh=mesh, ignored_params=scalars)
        gradients = gradients_of(model, mine["query"], mine["key"])
        for parameter in scalars:
            dist.all_reduce(parameter.grad, dist.ReduceOp.SUM)
            parameter.grad /= W
        found[name] = [part.full_tensor() if hasattr(part, "full_tensor") else part for part in gradients]
    return found


def peaks(rank):
    """Bytes that one forward and backward pass adds at most, by loss and exchange; inputs are there before.

    In float64, which torch computes: what the Rust engine allocates, the profiler does not see.
    """
    _plan.WORKSPACE_BYTES = WORKSPACE
    generator = torch.Generator().manual_seed(rank)
    query, key = (
        torch.randn(B_LOCAL, WIDTH, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    found = {}
    for name, loss in (("info_nce", info_nce), ("sigmoid_loss", sigmoid_loss)):
        for exchange, group in cases.EXCHANGES.items():
            options = {"normalize": False, "process_group": group(), "plan": "recompute"}
            loss(query, key, **options).backward()  # whatever is allocated once
            query.grad = key.grad = None
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
                loss(query, key, **options).backward()
            now = most = 0
            events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
            for event in sorted(events, key=lambda e: e.start_ns()):
                now += event.nbytes()
                most = max(most, now)
            found[name, exchange] = most
    return found


def disagreement(rank):
    """What ranks are told that call a loss differently."""
    found = []
    for options in ({"D": 3 + rank}, {"symmetric": rank == 0}, {"ids": rank == 0}, {"grad": rank == 0}):
        x = torch.ones(2, options.get("D", 3), requires_grad=options.get("grad", True))
        ids = torch.arange(2) if options.get("ids") else None
        with pytest.raises(ValueError, match="process_group: the ranks differ in") as caught:
            info_nce(
                x, x, symmetric=options.get("symmetric", False), query_ids=ids, key_ids=ids,
                process_group=dist.group.WORLD,
            )  # fmt: skip
        found.append(str(caught.value))
    return found


def two_dimensions(W):
    mesh = init_device_mesh("cpu", (W, 1), mesh_dim_names=("a", "b"))
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="process_group: a mesh of one dimension"):
        info_nce(x, x, process_group=mesh)
    return float(info_nce(x, x, process_group=mesh["a"]))


def chosen_by_size(rank):
    """The loss of 2 rows on every rank but the first, which has none, where anything is too much to gather."""
    gather_bytes, _ranks.GATHER_BYTES = _ranks.GATHER_BYTES, 1
    x = torch.eye(3)[: 2 * (rank > 0)]
    loss = float(info_nce(x, x, temperature=1.0, process_group=dist.group.WORLD))
    _ranks.GATHER_BYTES = gather_bytes
    return loss


def test_ranks_choose_the_same_exchange_though_one_has_no_rows(ranks):
    x = torch.eye(3)[:2].repeat(ranks[0] - 1, 1)
    for part in ranks[1]:
        assert part["auto"] == pytest.approx(float(info_nce(x, x, temperature=1.0)), rel=1e-6)


def queued(rank, W):
    queue = MomentumQueue(20, cases.D, dtype=torch.float64)
    mine = cases.share(cases.CASES["info_nce"], cases.everything(torch.float64), rank, W)["key"]
    for _ in range(2):
        queue.push(distributed.all_rows(mine))
    return queue.rows


def test_every_rank_has_the_queue_of_one_process(ranks):
    single = MomentumQueue(20, cases.D, dtype=torch.float64)
    for _ in range(2):
        single.push(cases.everything(torch.float64)["key"])
    for part in ranks[1]:
        assert torch.equal(part["queue"], single.rows)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", LOSSES)
def test_parameters_under_ddp_and_fsdp_get_the_gradients_of_one_process(ranks, name, wrapper):
    values = cases.everything(torch.float64)
    single = gradients_of(TwoTowers(LOSSES[name](None)).double(), values["query"], values["key"])
    for part in ranks[1]:
        for actual, expected in zip(part[wrapper][name], single, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["info_nce", "sigmoid_loss"])
def test_a_ring_holds_a_few_shards_however_many_ranks_there_are(ranks, name):
    shard, vectors = B_LOCAL * WIDTH * 8, 32 * B_LOCAL * 8
    bound = 9 * shard + vectors + WORKSPACE
    for part in ranks[1]:
        # Backward: a shard here and one coming; its gradient made here, one leaving and one arriving, twice in the
        # moment that they are added; the gradients of query and key, and the former's parts before they are joined.
        assert part["memory"][name, "ring"] <= bound
        if ranks[0] == 4:
            assert part["memory"][name, "gather"] > bound, "gathered shards are seen"


def test_ranks_that_call_differently_are_told_so_instead_of_waiting(ranks):
    W = ranks[0]
    for part in ranks[1]:
        columns, options, ids, gradients = part["disagreement"]
        assert columns == f"process_group: the ranks differ in the columns D: {list(range(3, 3 + W))} by rank"
        assert "directions or reduction" in options
        assert "which of ids" in ids
        assert "which inputs need a gradient" in gradients


def test_a_mesh_of_one_dimension_is_a_group_and_one_of_two_is_not(ranks):
    for part in ranks[1]:
        assert part["mesh"] == pytest.approx(float(info_nce(*[torch.ones(2 * ranks[0], 3)] * 2)))


def test_one_rank_is_one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        values = cases.everything(torch.float64)
        for case in (cases.CASES["info_nce_symmetric_ids"], cases.CASES["sigmoid_loss"]):
            arguments = cases.share(case, values, 0, 1)
            single, ringed = (cases.compute(case, arguments, group) for group in (None, distributed.ring()))
            for name, value in single.items():
                torch.testing.assert_close(ringed[name], value, rtol=1e-12, atol=1e-14)
    finally:
        dist.destroy_process_group()


def test_what_is_no_group_is_named():
    x = torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"process_group: a ProcessGroup, a DeviceMesh of one dimension.* got str"):
        info_nce(x, x, process_group="world")
