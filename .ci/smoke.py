"""What works with NumPy alone, run by .ci/smoke-test in an environment that has the wheel, NumPy and nothing else."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import time

start = time.perf_counter()
import numpy as np  # noqa: E402

import simtile  # noqa: E402
from simtile.cur import CallableScorer, CrossEncoderIndex  # noqa: E402
from simtile.hubness import HubnessReducer  # noqa: E402
from simtile.search import ExactIndex, GraphIndex  # noqa: E402

seconds = time.perf_counter() - start
installed = sorted(d.metadata["Name"] for d in importlib.metadata.distributions())
assert set(installed) <= {"numpy", "pip", "setuptools", "simtile"}, installed
assert importlib.util.find_spec("torch") is None

rng = np.random.default_rng(0)
items, queries = rng.standard_normal((500, 32), np.float32), rng.standard_normal((40, 32), np.float32)
truth = np.argsort(-queries @ items.T, axis=1)[:, :5]
assert (ExactIndex(items).search(queries, 5)[1] == truth).all()
assert (GraphIndex.build(items).search(queries, 5, ef=400)[1] == truth).mean() > 0.99
assert HubnessReducer("csls").fit(items, query_bank=queries[20:]).search(queries[:20], 5)[1].shape == (20, 5)
scorer = CallableScorer(lambda pairs: [float(queries[q] @ items[i]) for q, i in pairs])
index = CrossEncoderIndex.build(
    range(500), scorer, queries=range(30), query_embeddings=queries[:30], item_embeddings=items
)
assert index.search([35], 5, budget=50, query_embeddings=queries[35:36])[0][0]["corpus_id"] == truth[35, 0]
refused = subprocess.run(
    [sys.executable, "-c", "import simtile.functional"], capture_output=True, text=True, check=False
)
assert 'pip install "simtile[torch]"' in refused.stderr, refused
subprocess.run([sys.executable, "-m", "simtile", "doctor"], check=True, stdout=subprocess.DEVNULL)
boms = [file for file in importlib.metadata.files("simtile") or [] if "sboms/" in str(file)]
licences = [file for file in importlib.metadata.files("simtile") or [] if "licenses/" in str(file)]
assert len(boms) == 1 and len(licences) == 2, (boms, licences)
versions = f"simtile {simtile.__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}"
print(f"{versions}: ok, imports {seconds:.2f} s")
