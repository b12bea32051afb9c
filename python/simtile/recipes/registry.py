"""The registry of papers: one TOML file each in ``papers/``, named by its id. :class:`Paper` says what is in it.

The files are data: the table of the documentation, ``simtile recipe --list`` and the tests all come from them.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from simtile._extras import missing_extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ModuleNotFoundError as error:
        raise missing_extra(error) from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simtile.recipes.claim import Outcome

Better = Literal["higher", "lower", "equal"]
Tier = Literal["A", "B", "C"]
Checked = Literal["code", "text", "memory"]


class RegistryError(ValueError):
    """A registry file that is not what :class:`Paper` describes; the message names the file and the field."""


@dataclass(frozen=True)
class Recipe:
    """A run on small real data, and what it claims.

    Attributes
    ----------
    run : str
        ``module:function``; its keywords are those of `config`, it returns an ``Outcome``.
    shows : str
        What is measured.
    baseline : str
        What it is compared with.
    better : "higher", "lower" or "equal"
        "equal": an identity, |measured - baseline| <= margin.
    margin : float
        By how much the measured value beats the baseline; stated before the seeds of `config` and `tiny` were run.
    tiny_margin : float, optional
        The margin of the tiny setting; `margin` if it is left out.
    config, tiny : mapping
        Keywords of `run`; `tiny` overrides some of them for the tests. A list as `seed` means one run with each, and a
        claim about the mean.
    """

    run: str
    shows: str
    baseline: str
    better: Better
    margin: float
    tiny_margin: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] = field(default_factory=dict)

    def options(self, *, tiny: bool) -> dict[str, Any]:
        """The keywords of a run."""
        return {**self.config, **(self.tiny if tiny else {})}

    def bar(self, *, tiny: bool) -> float:
        """The margin of a run."""
        return self.tiny_margin if tiny and self.tiny_margin is not None else self.margin

    def function(self) -> Callable[..., Outcome]:
        """The function that `run` names."""
        module, _, name = self.run.partition(":")
        return cast("Callable[..., Outcome]", getattr(importlib.import_module(module), name))


@dataclass(frozen=True)
class Paper:
    """One row.

    Attributes
    ----------
    id : str
        The file's name.
    number : int
    title : str
    tier : "A", "B" or "C"
        A: a named, tested interface and a recipe. B: a recipe from what is there. C: an evaluation, or the reason why
        nothing of simtile applies.
    offers : str
        What simtile has for the paper, in a sentence.
    checked : "code", "text" or "memory"
        Where the formula was checked: the authors' public code, their text, or nowhere.
    paper : str
        ``arXiv:...``; empty where the number is not certain.
    api : tuple of str
        Import paths.
    tests : tuple of str
        ``file`` or ``file::function``.
    docs : str
        A page of the documentation.
    remarks : str
        What differs from the paper, what could not be checked, why there is no recipe.
    recipe : Recipe, optional
        Required in the tiers A and B.
    """

    id: str
    number: int
    title: str
    tier: Tier
    offers: str
    checked: Checked
    paper: str = ""
    api: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    docs: str = ""
    remarks: str = ""
    recipe: Recipe | None = None


def papers() -> dict[str, Paper]:
    """All rows by id, in the order of their numbers.

    Raises
    ------
    RegistryError      a file that does not fit
    """
    found = [read(file) for file in (Path(__file__).parent / "papers").glob("*.toml")]
    found.sort(key=lambda paper: paper.number)
    for one, next_one in itertools.pairwise(found):
        if one.number == next_one.number:
            raise RegistryError(f"{next_one.id}.toml: number: {one.number} is {one.id}.toml's")
    return {paper.id: paper for paper in found}


def read(file: Path) -> Paper:
    """One row; see :func:`papers` for the errors."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RegistryError(f"{file.name}: {error}") from None
    recipe = values.pop("recipe", None)
    paper: Paper = _checked(Paper, {**values, "id": file.stem}, file.name)
    if recipe is None:
        if paper.tier != "C" or not paper.remarks:
            raise RegistryError(f"{file.name}: recipe: missing; a row without one is of tier C, and `remarks` says why")
        return paper
    found: Recipe = _checked(Recipe, recipe, f"{file.name}: recipe")
    for margin in (found.margin, found.bar(tiny=True)):
        if not (math.isfinite(margin) and margin >= 0):
            raise RegistryError(f"{file.name}: recipe: margin: finite and not negative, got {margin}")
    for seed in (part["seed"] for part in (found.config, found.tiny) if "seed" in part):
        seeds = seed if isinstance(seed, list) else [seed]
        if not seeds or len(set(seeds)) < len(seeds) or any(type(one) is not int for one in seeds):
            raise RegistryError(f"{file.name}: recipe: seed: a whole number or a list of different ones, got {seed}")
    if unknown := sorted(set(found.tiny) - set(found.config)):
        raise RegistryError(f"{file.name}: recipe: tiny: not among the keys of config: {unknown}")
    return dataclasses.replace(paper, recipe=found)


_CHOICES = {"tier": ("A", "B", "C"), "checked": ("code", "text", "memory"), "better": ("higher", "lower", "equal")}
_KINDS: dict[str, tuple[type, ...]] = {
    "number": (int,), "margin": (int, float), "tiny_margin": (int, float), "api": (list,), "tests": (list,),
    "config": (dict,), "tiny": (dict,),
}  # fmt: skip


def _checked(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """An instance of a dataclass whose fields are those of a TOML table."""
    fields = {one.name: one for one in dataclasses.fields(kind) if one.name != "recipe"}
    if unknown := sorted(set(values) - set(fields)):
        raise RegistryError(f"{where}: unknown field {unknown[0]!r}")
    for name, one in fields.items():
        if name not in values:
            if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
                raise RegistryError(f"{where}: {name}: missing")
            continue
        value: Any = values[name]
        wanted = _KINDS.get(name, (str,))
        if not isinstance(value, wanted):
            raise RegistryError(f"{where}: {name}: a {wanted[0].__name__}, got {value!r}")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise RegistryError(f"{where}: {name}: one of {', '.join(_CHOICES[name])}, got {value!r}")
        if isinstance(value, list):
            values[name] = tuple(value)
    return kind(**values)
