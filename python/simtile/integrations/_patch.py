"""Replacing the classes and methods of a loaded library, and putting them back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Patch:
    """What an integration replaces. Both directions may be repeated: they look at what stands there, not at a state.

    Classes are found by identity under every name in every loaded module of the packages, re-exports included. A class
    that somebody else put there is left alone.
    """

    packages: tuple[str, ...]
    """Top-level packages whose modules are searched."""
    classes: Mapping[type, type] = field(default_factory=dict)
    """The library's class -> ours."""
    methods: Mapping[tuple[type, str], Callable[..., Any]] = field(default_factory=dict)
    """(the library's class, name of a method of its own) -> ours."""
    _original_methods: dict[tuple[type, str], object] = field(default_factory=dict, init=False)

    def apply(self) -> None:
        """Put ours in their places."""
        self._exchange(self.classes)
        for (owner, name), ours in self.methods.items():
            if owner.__dict__[name] is not ours:
                self._original_methods[owner, name] = owner.__dict__[name]
                setattr(owner, name, ours)

    def undo(self) -> None:
        """Put the library's back, also in modules that were loaded since and took ours."""
        self._exchange({ours: original for original, ours in self.classes.items()})
        for (owner, name), ours in self.methods.items():
            if owner.__dict__[name] is ours:
                setattr(owner, name, self._original_methods.pop((owner, name)))

    def _exchange(self, new: Mapping[type, type]) -> None:
        for module in _modules_of(self.packages):
            # The dictionary itself: getattr would make lazy modules import everything that they promise.
            held = [(name, value) for name, value in vars(module).items() if isinstance(value, type) and value in new]
            for name, value in held:
                setattr(module, name, new[value])


def _modules_of(packages: Iterable[str]) -> list[ModuleType]:
    wanted = frozenset(packages)
    return [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in wanted and isinstance(module, ModuleType)
    ]
