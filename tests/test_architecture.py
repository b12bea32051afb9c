"""Imports point one way, as docs/architecture.md draws them: the contracts of pyproject.toml."""

from pathlib import Path

import pytest

cli = pytest.importorskip("importlinter.cli")

ROOT = Path(__file__).resolve().parents[1]


def broken(config: Path) -> bool:
    """Whether a contract of a configuration file is broken."""
    return bool(cli.lint_imports(config_filename=str(config), no_cache=True))


def test_the_contracts_hold(capsys):
    assert not broken(ROOT / "pyproject.toml"), capsys.readouterr().out


@pytest.mark.parametrize(
    "contract",
    [
        'layers = ["functional", "losses"]\ncontainers = ["simtile"]',
        'layers = ["losses", "functional"]\ncontainers = ["simtile"]\nexhaustive = true',
    ],
    ids=["upwards", "without a place"],
)
def test_a_broken_contract_is_noticed(contract, tmp_path):
    config = tmp_path / "pyproject.toml"
    header = '[tool.importlinter]\nroot_package = "simtile"\n[[tool.importlinter.contracts]]\nname = "wrong"\n'
    config.write_text(f'{header}type = "layers"\n{contract}\n')
    assert broken(config)
