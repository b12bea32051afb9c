"""Nearest neighbours: NumPy arrays or torch tensors in, the same kind out; torch itself is never imported here."""

from simtile._core import IndexFileError
from simtile.search.blocks import search_blocks
from simtile.search.choose import Choice, build, explain
from simtile.search.exact import ExactIndex
from simtile.search.graph import GraphIndex

__all__ = ["Choice", "ExactIndex", "GraphIndex", "IndexFileError", "build", "explain", "search_blocks"]
