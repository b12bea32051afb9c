"""patch and unpatch: every place that holds a class, nothing else, and back again exactly."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

import simtile
from simtile.integrations import LIBRARIES
from simtile.integrations._patch import Patch
from simtile.integrations._warn import warn_once


class Loss:
    def forward(self):
        return "theirs"


class FusedLoss(Loss):
    def forward(self):
        return "ours"


@pytest.fixture
def library(monkeypatch):
    """A package that holds its class under two names in two modules, and a user's module that holds it as well."""
    package, inner, user = (types.ModuleType(name) for name in ("peer", "peer.loss", "peering"))
    inner.Loss = package.Loss = package.Alias = user.Loss = Loss
    for module in (package, inner, user):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return package, inner, user


def test_a_class_is_replaced_in_all_modules_of_its_library_and_in_no_other(library):
    package, inner, user = library
    swap = Patch(packages=("peer",), classes={Loss: FusedLoss})
    before = [dict(vars(module)) for module in library]
    swap.undo()  # nothing to undo
    for _ in range(2):
        swap.apply()
        assert package.Loss is package.Alias is inner.Loss is FusedLoss
        assert user.Loss is Loss
    for _ in range(2):
        swap.undo()
        assert [dict(vars(module)) for module in library] == before


def test_modules_loaded_after_the_patch_are_put_right_too(library, monkeypatch):
    swap = Patch(packages=("peer",), classes={Loss: FusedLoss})
    swap.apply()
    late = types.ModuleType("peer.late")
    late.Loss = library[0].Loss
    monkeypatch.setitem(sys.modules, "peer.late", late)
    swap.undo()
    assert late.Loss is Loss


def test_what_somebody_else_put_there_is_left_alone(library):
    package, _, _ = library
    swap = Patch(packages=("peer",), classes={Loss: FusedLoss})
    swap.apply()
    package.Loss = other = type("Loss", (FusedLoss,), {})
    swap.apply()
    swap.undo()
    assert package.Loss is other


def test_a_method_is_replaced_for_objects_that_exist_and_put_back():
    class Model:
        def forward(self):
            return "theirs"

    def fused(self):
        return "ours"

    model, original = Model(), Model.__dict__["forward"]
    swap = Patch(packages=(), methods={(Model, "forward"): fused})
    for _ in range(2):
        swap.apply()
        assert model.forward() == "ours"
    for _ in range(2):
        swap.undo()
        assert Model.__dict__["forward"] is original


def test_an_unknown_library_is_an_error_that_lists_the_known_ones():
    message = r"library: one of 'lightly', .*'transformers', got 'open-clip'"
    for change in (simtile.patch, simtile.unpatch):
        with pytest.raises(ValueError, match=message):
            change("open-clip")


@pytest.mark.parametrize(
    ("library", "package", "extra"),
    [("open_clip", "open_clip", "clip"), ("lightly", "lightly", "lightly"), ("transformers",) * 3],
)
def test_a_missing_library_names_the_line_to_install_it(library, package, extra):
    code = f"import sys; sys.modules[{package!r}] = None; import simtile; simtile.patch({library!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: {package} is not installed, and this part of simtile needs it: "
        f'pip install "simtile[{extra}]"'
    )


def test_a_warning_is_given_once():
    with pytest.warns(UserWarning, match="once only"):
        warn_once("once only")
    warn_once("once only")


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_integration_patches_and_restores_its_library(library):
    try:
        found: Patch = importlib.import_module(f"simtile.integrations.{library}").PATCH
    except ModuleNotFoundError as error:
        if "is not installed" not in str(error):
            raise
        pytest.skip(str(error))

    def held():
        return {
            (name, attribute): value
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in found.packages
            for attribute, value in vars(module).items()
            if isinstance(value, type)
        }

    before = held()
    methods = {place: place[0].__dict__[place[1]] for place in found.methods}
    simtile.patch(library)
    try:
        after = held()
        changed = {place for place, value in before.items() if after[place] is not value}
        assert {before[place] for place in changed} == set(found.classes)
        assert all(issubclass(after[place], before[place]) for place in changed)
        assert all(place[0].__dict__[place[1]] is ours for place, ours in found.methods.items())
    finally:
        simtile.unpatch(library)
    assert held() == before
    assert all(place[0].__dict__[place[1]] is value for place, value in methods.items())
