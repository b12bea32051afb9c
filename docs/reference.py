"""Pages of the reference: every public name with its signature and its docstring, set as it is written.

The docstrings are columns of fixed-width text with formulas, so that they are shown as such rather than parsed.
Annotations are left out of the signatures: the docstrings say types with shapes.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    "simtile.functional", "simtile.losses", "simtile.targets", "simtile.adaptive", "simtile.mixing", "simtile.listwise",
    "simtile.late_interaction", "simtile.self_supervised", "simtile.layers", "simtile.augment", "simtile.multitask",
    "simtile.distributed", "simtile.search", "simtile.hubness", "simtile.hubness.functional", "simtile.cur",
    "simtile.integrations", "simtile.kernels.reference",
)  # fmt: skip
PAGES = tuple(f"reference/{module.removeprefix('simtile.').replace('.', '_')}" for module in MODULES)


def signature(thing: Any) -> str:
    """Without annotations; () for what has none."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values() if p.name != "self"]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def plain(thing: Any) -> str:
    """The docstring; roles and doubled quotes of code become single ones, as readers of plain text expect."""
    text = re.sub(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`", r"`\1`", inspect.getdoc(thing) or "")
    return text.replace("``", "`")


def markdown(text: str) -> str:
    """A module's docstring: paragraphs, lists and indented formulas already; what else would be markup is escaped."""
    parts = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)
    return "".join(part if at % 2 else re.sub(r"([<\[\]_$|])", r"\\\1", part) for at, part in enumerate(parts))


def entry(kind: str, name: str, thing: Any, *, depth: int = 3, inside: str = "") -> str:
    """A MyST directive; longer fences outside, since the docstring has one of its own."""
    text = plain(thing)
    called = "" if kind in ("data", "property", "exception") else signature(thing)
    docstring = f"```text\n{text}\n```\n" if text else ""
    fence = "`" * (depth + 2)
    return f"{fence}{{py:{kind}}} {name}{called}\n\n{docstring}{inside}{fence}\n\n"


def methods(cls: type) -> str:
    """Public methods and properties that the class itself documents."""
    parts = []
    for name, member in vars(cls).items():
        thing = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if name.startswith("_") or not (inspect.isfunction(thing) or isinstance(thing, property)):
            continue
        if inspect.getdoc(thing):
            kind = "property" if isinstance(thing, property) else "method"
            parts.append(entry(kind, name, thing, depth=2))
    return "".join(parts)


def public(module: ModuleType) -> list[str]:
    """``__all__``, or without one what the module itself defines."""
    own = (name for name, thing in vars(module).items() if getattr(thing, "__module__", None) == module.__name__)
    return list(getattr(module, "__all__", None) or (name for name in own if not name.startswith("_")))


def page(module: ModuleType) -> str:
    """All public names, in the module's order."""
    parts = [f"# {module.__name__}\n\n{markdown(plain(module))}\n\n```{{py:module}} {module.__name__}\n```\n\n"]
    for name in public(module):
        thing = getattr(module, name)
        if inspect.ismodule(thing):
            continue
        if inspect.isclass(thing):
            kind = "exception" if issubclass(thing, BaseException) else "class"
            parts.append(entry(kind, name, thing, inside=methods(thing) if kind == "class" else ""))
        elif callable(thing) and hasattr(thing, "__name__"):
            parts.append(entry("function", name, thing))
        else:
            parts.append(f"```{{py:data}} {name}\n```\n\n")
    return "".join(parts)


def write(folder: Path) -> None:
    """Write the pages, each only where it changed, so that a second build has little to do."""
    folder.mkdir(exist_ok=True)
    for module, path in zip(MODULES, PAGES, strict=True):
        text, file = page(importlib.import_module(module)), folder / f"{Path(path).name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
