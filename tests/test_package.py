"""What a user installs: the files in wheel and sdist, what `import simtile` costs, what a missing extra says."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import simtile
from simtile import _extras

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter; modules under ``path`` come before the installed ones."""
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def maturin(*arguments: str, cwd: Path = ROOT) -> None:
    """Run the build tool; a failure shows what it wrote."""
    command = [sys.executable, "-m", "maturin", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def expected_files() -> set[str]:
    """Every file that Git would take from the package and kernels/, at its place in the installed package."""
    package, kernels = ROOT / "python/simtile", ROOT / "kernels"
    sources = {f"simtile/{path.relative_to(package)}" for path in package.rglob("*.py")}
    for suffix in ("*.py", "*.json"):
        sources |= {f"simtile/kernels/{path.relative_to(kernels)}" for path in kernels.rglob(suffix)}
    return sources | {"simtile/py.typed", "simtile/_core.pyi"}


def test_the_wheel_carries_kernels_types_and_engine(tmp_path: Path) -> None:
    maturin("build", "--release", "--out", str(tmp_path), "--interpreter", sys.executable)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected_files() <= names
    assert [name for name in names if re.fullmatch(r"simtile/_core\.(abi3\.so|pyd)", name)]
    assert not [name for name in names if name.startswith("kernels/")], "kernels must not become a global package"


@pytest.mark.slow
def test_the_sdist_builds_a_working_package(tmp_path: Path) -> None:
    maturin("sdist", "--out", str(tmp_path))
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = set(sdist.getnames())
        sdist.extractall(tmp_path, **({"filter": "data"} if sys.version_info >= (3, 12) else {}))
    folder = tmp_path / archive.name.removesuffix(".tar.gz")
    assert {f"{folder.name}/python/{name}" for name in expected_files()} <= names
    assert f"{folder.name}/LICENSE" in names

    # Unoptimised, and in a target folder that lasts: only the first run compiles the dependencies.
    target = str(ROOT / "rust/target/sdist")
    arguments = ("--profile", "dev", "--target-dir", target, "--out", str(tmp_path), "--interpreter", sys.executable)
    maturin("build", *arguments, cwd=folder)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)
    done = python(
        "import simtile._core, simtile.kernels.reference; print(simtile.__file__, simtile._core.isas())", path=installed
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(installed))
    assert "portable" in done.stdout


def test_all_versions_agree() -> None:
    from simtile import _core

    cargo = re.search(r'^version = "(.+)"', (ROOT / "rust/Cargo.toml").read_text(), re.MULTILINE)
    assert cargo is not None
    assert {importlib.metadata.version("simtile"), _core.__version__, cargo[1]} == {simtile.__version__}


@pytest.mark.parametrize(
    "statement",
    [
        "import simtile",
        "from simtile import search",
        "import simtile.__main__",
        "from simtile.evaluation import galleries, hyperplane, label_vectors, patches, rsa, whitening",
    ],
)
def test_importing_loads_no_optional_package(statement: str) -> None:
    packages = sorted({*_extras._EXTRA, "scipy"})
    done = python(f"{statement}; import sys; print([name for name in {packages} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


def test_import_takes_less_than_300_ms() -> None:
    code = "import time; start = time.perf_counter(); import simtile; print(time.perf_counter() - start)"
    assert min(float(python(code).stdout) for _ in range(3)) < 0.3


@pytest.mark.parametrize(
    "statement",
    ["import simtile.functional", "from simtile import losses", "import simtile; simtile.explain"],
)
def test_a_missing_extra_names_the_line_to_install_it(statement: str) -> None:
    done = python(f"import sys; sys.modules['torch'] = None; {statement}")
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: torch is not installed, and this part of simtile needs it: pip install "simtile[torch]"'
    )


def test_only_our_extras_are_recommended() -> None:
    extras = importlib.metadata.metadata("simtile").get_all("Provides-Extra")
    assert set(_extras._EXTRA.values()) <= set(extras or ())
    unrelated = ModuleNotFoundError("No module named 'left_pad'", name="left_pad")
    assert _extras.missing_extra(unrelated) is unrelated


def test_every_public_name_is_listed_and_an_unknown_one_is_an_attribute_error() -> None:
    assert set(simtile.__all__) <= set(dir(simtile))
    for name in simtile.__all__:
        assert getattr(simtile, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = simtile.serach  # type: ignore[attr-defined]
