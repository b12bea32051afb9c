"""The losses, one a file: each a few lines of R - T over :mod:`simtile._ops` and the targets.

:mod:`simtile.functional` and :mod:`simtile.losses` are where users find them.
"""
