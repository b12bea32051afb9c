"""The demo's corpus: harvested pairs, split by package, without duplicates, cached under a user cache folder.

No package is on both sides of the split, and no query or code occurs twice anywhere, so nothing that is searched in the
test was seen in training. The harvested text belongs to its authors: it stays in the cache folder.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from simtile.demo.harvest import STDLIB_PREFIX, Pair, SourceFile, harvest

TEST_PACKAGES = frozenset({"networkx", "sklearn"})
STDLIB_TEST_SHARE = 3  # every third standard-library module, by hash of its name
CACHE_FORMAT = 1  # raise when the harvest's rules change


@dataclass(frozen=True)
class Corpus:
    """Training and test pairs, and how they came about.

    `digest` is a SHA-256 over all pairs in order: two runs with the same digest saw the same data.
    """

    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    n_files: int
    n_unparsed: int
    n_duplicates: int
    stopped_early: bool
    seconds: float
    digest: str
    versions: dict[str, str]
    from_cache: bool = False

    def pairs_per_package(self) -> dict[str, dict[str, int]]:
        """``{"train": {package: pairs}, "test": ...}``, largest first."""
        return {
            side: dict(sorted(Counter(pair.package for pair in pairs).items(), key=lambda item: (-item[1], item[0])))
            for side, pairs in (("train", self.train), ("test", self.test))
        }


def is_test_package(package: str) -> bool:
    """Whether a package belongs to the test side. Depends on its name only."""
    if package.startswith(STDLIB_PREFIX):
        return zlib.crc32(package.encode()) % STDLIB_TEST_SHARE == 0
    return package in TEST_PACKAGES


def build_corpus(
    sources: Sequence[SourceFile],
    *,
    max_train: int,
    max_test: int,
    workers: int = 1,
    max_seconds: float = 90.0,
    on_file: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Harvest, drop duplicates, split.

    Parameters
    ----------
    sources : sequence of SourceFile
    max_train, max_test : int
        Harvesting a side ends at this many pairs.
    workers : int
        Processes; the result does not depend on it.
    max_seconds : float
        A guard for slow disks. A corpus that was cut short by it says so (`stopped_early`) and is not cached.
    on_file : callable (files done, pairs kept), optional
        Called after every file, for a progress bar.

    Notes
    -----
    The test side is harvested first: of two equal pairs, the one in the training packages goes.
    """
    start = time.monotonic()
    deadline = start + max_seconds
    seen: set[bytes] = set()
    sides: dict[bool, list[Pair]] = {True: [], False: []}
    n_files = n_unparsed = n_duplicates = 0
    for is_test, limit in ((True, max_test), (False, max_train)):
        pairs = sides[is_test]
        side_sources = [source for source in sources if is_test_package(source.package) == is_test]
        for result in harvest(side_sources, workers=workers, deadline=deadline):
            n_files += 1
            n_unparsed += not result.parsed
            for pair in result.pairs:
                keys = {_fingerprint(pair.query), _fingerprint(pair.code)}
                if seen.isdisjoint(keys):
                    pairs.append(pair)
                else:
                    n_duplicates += 1
                seen |= keys
            if on_file is not None:
                on_file(n_files, len(sides[True]) + len(sides[False]))
            if len(pairs) >= limit:
                del pairs[limit:]
                break
    seconds = time.monotonic() - start
    train, test = tuple(sides[False]), tuple(sides[True])
    return Corpus(
        train=train,
        test=test,
        n_files=n_files,
        n_unparsed=n_unparsed,
        n_duplicates=n_duplicates,
        stopped_early=time.monotonic() > deadline,
        seconds=seconds,
        digest=content_digest((*train, *test)),
        versions=package_versions({pair.package for pair in (*train, *test)}),
    )


def _fingerprint(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(errors="replace"), digest_size=16).digest()


def content_digest(pairs: Iterable[Pair]) -> str:
    """SHA-256 over queries, codes and packages, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for text in (pair.package, pair.query, pair.code):
            digest.update(text.encode(errors="replace"))
            digest.update(b"\0")
    return digest.hexdigest()


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that the packages come from, and of Python."""
    distributions = importlib.metadata.packages_distributions()
    versions = {"python": platform.python_version()}
    for package in sorted(packages):
        for distribution in distributions.get(package, [])[:1]:
            versions[distribution] = importlib.metadata.version(distribution)
    return versions


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/simtile``, or ``~/.cache/simtile``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simtile"


def cache_path(cache_dir: Path, sources: Sequence[SourceFile], max_train: int, max_test: int) -> Path:
    """Where the corpus of exactly these files (name and size) and limits is cached."""
    digest = hashlib.sha256(f"{CACHE_FORMAT} {platform.python_version()} {max_train} {max_test}".encode())
    for source in sources:
        digest.update(f"{source.name} {os.stat(source.path).st_size}\n".encode())
    return cache_dir / f"demo-corpus-{digest.hexdigest()[:16]}.json.gz"


def save_corpus(corpus: Corpus, path: Path) -> None:
    """Write a corpus in one step, so that a second process never reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    with gzip.open(unfinished, "wt", encoding="utf-8", compresslevel=1) as file:
        json.dump(asdict(corpus), file)
    unfinished.replace(path)


def load_corpus(path: Path) -> Corpus | None:
    """Read a cached corpus; None if there is none, or if it is damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            fields = json.load(file)
        for side in ("train", "test"):
            fields[side] = tuple(Pair(**pair) for pair in fields[side])
        corpus = Corpus(**{**fields, "from_cache": True})
    except (OSError, EOFError, ValueError, TypeError, KeyError, zlib.error):
        return None
    return corpus if content_digest((*corpus.train, *corpus.test)) == corpus.digest else None
