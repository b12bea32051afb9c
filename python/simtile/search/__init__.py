"""Nearest neighbours: NumPy arrays or torch tensors in, the same kind out; torch itself is never imported here."""

from simtile.search.blocks import search_blocks
from simtile.search.exact import ExactIndex

__all__ = ["ExactIndex", "search_blocks"]
