"""Every crate and package that simtile needs has a licence that is allowed, and what wheels contain is named."""

import importlib.metadata
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def crates() -> dict[str, dict]:
    """Every crate that this platform needs by its id, from cargo's own copy of the registry; "" is simtile's."""
    if shutil.which("cargo") is None:
        pytest.skip("needs cargo")
    rustc = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    host = next(line.split()[1] for line in rustc.splitlines() if line.startswith("host:"))
    command = ["cargo", "metadata", "--offline", "--locked", "--format-version", "1", "--all-features"]
    where = ["--manifest-path", str(ROOT / "rust/Cargo.toml"), "--filter-platform", host]
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    packages = {package["id"]: {**package, "deps": nodes[package["id"]]["deps"]} for package in found["packages"]}
    return {"": packages[found["resolve"]["root"]], **packages}


def offered(crate: dict) -> list[set[str]]:
    """All of these sets have to be allowed in part: "(MIT OR Apache-2.0) AND Unicode-3.0" has two."""
    return [set(re.findall(r"[\w.-]+", part)) - {"OR"} for part in crate["license"].replace("/", " OR ").split(" AND ")]


def allowed() -> set[str]:
    """cargo-deny's list."""
    found = re.search(r"^allow = (\[.*?\])", (ROOT / "deny.toml").read_text(), re.MULTILINE)
    assert found
    return set(json.loads(found[1]))


def test_the_licence_of_every_crate_is_allowed(crates):
    for crate in crates.values():
        for choice in offered(crate):
            assert choice & allowed(), f"{crate['name']}: {crate['license']}"


def test_what_is_linked_into_wheels_is_named(crates):
    linked, todo = set(), [crates[""]]
    while todo:
        for dependency in todo.pop()["deps"]:
            crate = crates[dependency["pkg"]]
            macro = any("proc-macro" in target["kind"] for target in crate["targets"])
            if (
                any(kind["kind"] is None for kind in dependency["dep_kinds"])
                and not macro
                and crate["name"] not in linked
            ):
                linked.add(crate["name"])
                todo.append(crate)
    named = set(re.findall(r"^\| ([\w-]+) \|", (ROOT / "THIRD_PARTY.md").read_text(), re.MULTILINE)) - {"crate"}
    locked = set(re.findall(r'^name = "(.+)"', (ROOT / "rust/Cargo.lock").read_text(), re.MULTILINE))
    assert linked <= named <= locked


def test_only_numpy_is_required_and_its_licence_is_free():
    required = [line for line in importlib.metadata.requires("simtile") or [] if "extra ==" not in line]
    assert [re.split(r"[<>=!~ ]", line)[0] for line in required] == ["numpy"]
    assert "BSD" in importlib.metadata.metadata("numpy").get("License-Expression", "BSD-3-Clause")


def test_names_versions_and_licences_agree_everywhere():
    metadata = importlib.metadata.metadata("simtile")
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {metadata['Version']}\n" in citation and "license: Apache-2.0\n" in citation
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
