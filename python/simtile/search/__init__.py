"""Nearest neighbours: NumPy arrays or torch tensors in, the same kind out; torch itself is never imported here."""

from simtile.search.exact import ExactIndex

__all__ = ["ExactIndex"]
