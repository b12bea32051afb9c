"""Docstring -> code pairs, harvested from the Python files that are installed on this machine.

A pair is the first paragraph of a function's docstring (the query) and the function's source without any docstring
(the code), the task of CodeSearchNet [1] on whatever libraries are at hand. The corpus therefore depends on the
environment; `simtile.demo.corpus` names it by a content hash and the versions of its packages.

[1] Husain et al. 2019, arXiv:1909.09436.
"""

from __future__ import annotations

import ast
import inspect
import multiprocessing
import sys
import sysconfig
import time
import tokenize
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

STDLIB_PREFIX = "stdlib:"
MIN_QUERY_WORDS = 3
MAX_QUERY_CHARS = 240
MIN_CODE_LINES = 2
MAX_CODE_CHARS = 1_500
MAX_FILE_BYTES = 1_000_000  # larger files are generated tables

# Tests are not code that anybody searches for. Vendored copies and backports would carry code of one package, slightly
# changed, into another one on the other side of the split.
TEST_DIRECTORIES = {"idlelib", "test", "testing", "tests"}
VENDORED_DIRECTORIES = {"_distutils", "_vendor", "extern", "externals", "vendored"}
SKIPPED_DIRECTORIES = frozenset(TEST_DIRECTORIES | VENDORED_DIRECTORIES | {"__pycache__", "site-packages"})
BACKPORTS = {"importlib_metadata", "importlib_resources", "typing_extensions", "zipp"}
SKIPPED_PACKAGES = frozenset(BACKPORTS | {"simtile"})  # working on simtile must not change its corpus


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A Python file and the package it counts for."""

    package: str
    name: str  # posix path below its root: the same on every machine, unlike `path`
    path: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A docstring's first paragraph, the code it describes, and the package both come from."""

    query: str
    code: str
    package: str


@dataclass(frozen=True, slots=True)
class FileHarvest:
    """The pairs of one file; `parsed` is False if the file could not be read or parsed."""

    package: str
    pairs: tuple[Pair, ...]
    parsed: bool


def installed_roots() -> tuple[Path, list[Path]]:
    """The standard library's folder and the site-packages folders of the running interpreter."""
    paths = sysconfig.get_paths()
    return Path(paths["stdlib"]), sorted({Path(paths["purelib"]), Path(paths["platlib"])})


def find_source_files(stdlib: Path | None, site_packages: Sequence[Path]) -> list[SourceFile]:
    """All candidate files, in an order that depends on their names only.

    Files are sorted by a hash of their name, so that the first n of them are a sample of every package rather than
    the packages at the start of the alphabet. A standard-library module counts as a package ``stdlib:<module>``.
    """
    found = []
    for root, prefix in [(stdlib, STDLIB_PREFIX), *((root, "") for root in site_packages)]:
        if root is None or not root.is_dir():
            continue
        for path in root.rglob("*.py"):
            name = path.relative_to(root)
            package = name.parts[0].removesuffix(".py")
            if _is_skipped(name) or (not prefix and len(name.parts) > 1 and not package.isidentifier()):
                continue
            found.append(SourceFile(prefix + package, prefix + name.as_posix(), str(path)))
    return sorted(found, key=lambda source: (zlib.crc32(source.name.encode()), source.name))


def _is_skipped(name: Path) -> bool:
    stem = name.stem
    return (
        name.parts[0].removesuffix(".py") in SKIPPED_PACKAGES
        or not SKIPPED_DIRECTORIES.isdisjoint(name.parts[:-1])
        or stem.startswith("test_")
        or stem.endswith("_test")
        or stem == "conftest"
    )


def harvest_file(source: SourceFile) -> FileHarvest:
    """Read, parse and cut up one file. Never raises for what the file contains."""
    try:
        if Path(source.path).stat().st_size > MAX_FILE_BYTES:
            return FileHarvest(source.package, (), parsed=True)
        with tokenize.open(source.path) as file:
            text = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return FileHarvest(source.package, (), parsed=False)
    pairs = tuple(Pair(query, code, source.package) for query, code in pairs_in_module(tree, text))
    return FileHarvest(source.package, pairs, parsed=True)


def pairs_in_module(tree: ast.Module, text: str) -> Iterator[tuple[str, str]]:
    """Yield (query, code) for every documented function or method of a parsed module, in source order."""
    # ast counts lines by \n alone; str.splitlines would also break at form feeds and shift everything below.
    lines = text.split("\n")
    functions = []
    docstring_lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        first = node.body[0]
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            continue
        docstring = first.value.value
        if not isinstance(docstring, str) or lines[first.lineno - 1][: first.col_offset].strip():
            continue  # the docstring shares its line with the signature
        docstring_lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        if not isinstance(node, ast.ClassDef) and any(_does_something(statement) for statement in node.body[1:]):
            functions.append((node, docstring))
    for node, docstring in sorted(functions, key=lambda function: function[0].lineno):
        query = query_from_docstring(docstring)
        end = node.end_lineno or node.lineno
        code = _cut_code([lines[i - 1] for i in range(node.lineno, end + 1) if i not in docstring_lines])
        if query and code:
            yield query, code


def _does_something(statement: ast.stmt) -> bool:
    is_ellipsis = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return not (is_ellipsis or isinstance(statement, (ast.Pass, ast.Raise)))


def query_from_docstring(docstring: str) -> str | None:
    """The first paragraph on one line, or None if it is too short to search with."""
    paragraph = inspect.cleandoc(docstring).split("\n\n", 1)[0]
    words = paragraph.split()
    if len(words) < MIN_QUERY_WORDS:
        return None
    query = " ".join(words)
    return query if len(query) <= MAX_QUERY_CHARS else query[:MAX_QUERY_CHARS].rsplit(" ", 1)[0]


def _cut_code(lines: list[str]) -> str | None:
    """Dedent by the `def` line, drop blank lines, keep whole lines up to `MAX_CODE_CHARS`."""
    indent = len(lines[0]) - len(lines[0].lstrip())
    kept: list[str] = []
    size = 0
    for line in lines:
        if not line.strip():
            continue
        line = line[indent:].rstrip() if not line[:indent].strip() else line.rstrip()
        size += len(line) + 1
        if size > MAX_CODE_CHARS:
            break
        kept.append(line)
    return "\n".join(kept) if len(kept) >= MIN_CODE_LINES else None


def harvest(sources: Sequence[SourceFile], *, workers: int, deadline: float | None = None) -> Iterator[FileHarvest]:
    """Harvest files in parallel, yielding in the order of `sources` whatever the number of workers.

    Parameters
    ----------
    sources : sequence of SourceFile
    workers : int
        Processes; 1 stays in this process.
    deadline : float, optional
        A `time.monotonic()` value after which no further file is yielded.

    Notes
    -----
    Workers are spawned, not forked: the caller may already run threads (torch, a test runner), which a fork would
    leave in an undefined state.
    """
    if workers <= 1:
        for source in sources:
            if _is_past(deadline):
                return
            yield harvest_file(source)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_raise_recursion_limit)
    try:
        for result in executor.map(harvest_file, sources, chunksize=32):
            if _is_past(deadline):
                return
            yield result
    finally:
        executor.shutdown(cancel_futures=True)


def _is_past(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _raise_recursion_limit() -> None:
    sys.setrecursionlimit(5_000)  # long chains of `a + b + ...` in generated files
