"""Which plan is chosen, what explain says, and that memory follows it."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from simtile import _plan
from simtile._plan import DENSE_PAIRS, STASH_MAX_SCALE, decide, has_tiles
from simtile.functional import explain

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64


def test_small_problems_are_dense_and_large_ones_are_tiled():
    for dtype, pairs in DENSE_PAIRS.items():
        side = int(pairs**0.5)
        assert explain("info_nce", side, side, 64, dtype=dtype).name == "dense"
        assert explain("info_nce", side + 1, side + 1, 64, dtype=dtype).name == "chunked"
        assert explain("info_nce", side + 1, side + 1, 64, dtype=dtype, symmetric=True).name == "recompute"
    assert explain("pair_lse", 8192, 8192, 384).name == "recompute"
    assert explain("sigmoid_loss", 8192, 8192, 384).name == "chunked"


def test_a_stash_needs_bfloat16_a_known_small_scale_and_room():
    def name(dtype=BF16, scale=14.0, budget=1 << 30):
        return explain("info_nce", 4096, 4096, 64, dtype=dtype, symmetric=True, scale=scale, memory_budget=budget).name

    assert name() == "stash"
    assert name(budget=2 * 4096**2 - 1) == "recompute"
    assert name(dtype=F32) == name(dtype=torch.float16) == name(scale=None) == name(scale=100.0) == "recompute"


def test_a_stash_that_would_be_inexact_is_not_made_and_explain_says_so():
    plan = explain("pair_lse", 4096, 4096, 64, dtype=BF16, scale=STASH_MAX_SCALE + 1, plan="stash")
    assert plan.name == "recompute" and "too coarse above a scale of 20" in str(plan)
    device = torch.device("cpu")
    assert decide(9, 9, BF16, device, one_sided=False, plan="stash", scale=14.0) == ("stash", "asked")


def test_where_no_tiles_run_torch_does():
    assert explain("info_nce", 1000, 1000, 64, dtype=F64).name == "dense"
    large = explain("info_nce", 10**5, 10**5, 64, dtype=F64)
    assert (large.name, large.engine) == ("chunked", "torch")
    metal = explain("pair_lse", 10**5, 10**5, 64, device="mps")
    assert (metal.engine, metal.engine_reason) == ("torch", "no tile engine for mps")


def test_a_guide_costs_its_columns_in_every_pass_that_makes_scores():
    assert explain("pair_nll", 8192, 8192, 384, guide=192).units == 3.5
    assert explain("pair_lse", 8192, 8192, 384, guide=192).units == 5
    guided, plain = (explain("pair_nll", 8192, 8192, 384, guide=columns).extra_bytes for columns in (192, 0))
    assert guided - plain == 2 * 8192 * 192 * 4


def test_a_gpu_takes_triton_and_explain_says_why(monkeypatch):
    plan = explain("info_nce", 8192, 8192, 768, dtype=BF16, device="cuda", symmetric=True, scale=14.0)
    assert (plan.name, plan.engine, plan.units) == ("stash", "Triton tiles", 3)
    assert plan.engine_reason.startswith("bfloat16 on cuda, triton 3.")
    assert explain("pair_lse", 512, 512, 64, device="cuda").engine_reason == "stored scores need no tiles"
    assert explain("info_nce", 8192, 8192, 64, dtype=F64, device="cuda").engine == "torch"
    monkeypatch.setattr(_plan, "_triton", lambda: ("3.2.0", "triton 3.2.0 is older than 3.7"))
    plan = explain("info_nce", 8192, 8192, 768, dtype=BF16, device="cuda")
    assert (plan.engine, plan.engine_reason) == ("torch", "triton 3.2.0 is older than 3.7")


def test_plans_of_a_gpu_by_shape():
    def plan(op, N, D=768, **options):
        found = explain(op, N, N, D, dtype=BF16, device="cuda", **options)
        return found.name, found.units

    assert plan("info_nce", 65_536) == ("chunked", 3)
    assert plan("info_nce", 131_072) == ("recompute", 4)  # whole rows of scores would be too few at a time
    assert plan("sigmoid_loss", 131_072) == ("chunked", 3)
    assert plan("pair_lse", 65_536, scale=14.0) == ("recompute", 4)  # a stash of 8 GB
    assert plan("pair_lse", 8192, scale=100.0) == ("recompute", 4)
    assert plan("pair_lse", 65_536, D=128) == ("recompute", 5)  # gradients in registers


def test_a_compiled_graph_chooses_the_engine_of_a_gpu():
    @torch.compile(fullgraph=True, backend="eager")
    def tripled(x):
        return x * 3 if has_tiles(x.dtype, torch.device("cuda")) else x

    torch._dynamo.reset()
    assert torch.equal(tripled(torch.ones(2)), torch.full((2,), 3.0))


def test_no_cpu_job_loads_the_kernels():
    """torch may import triton on its own."""
    code = (
        "import sys, torch; from simtile import functional as f; x = torch.randn(900, 8, requires_grad=True)\n"
        "f.info_nce(x, x).backward(); f.sigmoid_loss(x, x); f.pair_topk(x, x, 2); f.in_batch_rank(x, x)\n"
        "print(f.explain('info_nce', 9999, 9999, 8)); sys.exit('simtile.kernels.tile' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_it_prints_what_matters():
    text = str(explain("info_nce", 8192, 8192, 384, symmetric=True))
    assert text.splitlines() == [
        "info_nce  M=8,192 N=8,192 D=384  float32 on cpu",
        "  plan    recompute: two-sided: a column's log-sum-exp needs all rows, so the tiles are computed twice",
        "  engine  Rust tiles: float32 on the CPU",
        "  work    4u = 206.2 GFLOP forward and backward",
        text.splitlines()[4],
    ]
    assert "stored scores would take 268.4 MB" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nce", 1, 1, 1), "op: one of 'pair_lse'"),
        (("info_nce", -1, 1, 1), "M: at least 0, got -1"),
        (("pair_lse", 9, 9, 9, "chunked"), "plan: 'chunked' needs a reduced"),
        (("pair_nll", 9, 9, 9, "stash"), "plan: 'stash' is for two-sided"),
        (("pair_lse", 9, 9, 9, "stash"), "plan: 'stash' is for two-sided log-sum-exps of bfloat16"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        explain(*arguments[:4], plan=arguments[4] if len(arguments) > 4 else "auto")


@pytest.mark.parametrize("loss", ["info_nce(q, k)", "info_nce(q, k, symmetric=True)", "sigmoid_loss(q, k)"])
def test_no_plan_but_dense_ever_stores_the_scores(loss):
    """Peak resident memory of a process of its own: at B = 8,192 the scores alone would be 268 MB."""
    code = f"""
        import resource, torch
        from simtile.functional import info_nce, sigmoid_loss
        torch.set_num_threads(1)
        q, k = (torch.randn(256, 16, requires_grad=True) for _ in range(2))
        {loss.replace(")", ", plan='recompute' if 'symmetric' in " + repr(loss) + " else 'chunked')")}.backward()
        q, k = (torch.randn(8192, 16, requires_grad=True) for _ in range(2))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        {loss}.backward()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=120
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert resource.RUSAGE_SELF == 0 and int(run.stdout) * unit < 64 << 20
