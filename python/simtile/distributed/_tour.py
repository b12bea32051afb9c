"""A shard's way past every rank and home again, with what each rank adds to it.

    ring     step t: rank r holds the shard of rank r - t, works on it, and meanwhile receives the next one from r - 1.
             A shard's total follows one step behind it and travels while its new holder works.
    gather   every shard goes to every rank at once, every rank's addition goes home at once.

Addition is in a fixed order: from the shard's own rank onwards around the ring, or by rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simtile.distributed._ranks import Ranks

    Parts: TypeAlias = tuple[Tensor, ...]
    Visit: TypeAlias = Callable[[int, Parts], Parts]
    Merge: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class Tour:
    """Exchanges shards of ``rows[r]`` rows at rank r."""

    def __init__(self, ranks: Ranks, rows: Sequence[int]) -> None:
        self.ranks, self.rows = ranks, rows
        self._global_ranks = dist.get_process_group_ranks(ranks.group)

    def run(self, shard: Parts, visit: Visit, merge: Merge) -> Parts:
        """Show every rank's shard to ``visit(owner, shard)`` of every rank, and merge what they return for this one's.

        All tensors have a row per row of the shard they belong to. ``visit`` returns as many as it likes, the same
        number on every rank, each of its own; ``merge(total, part)`` may write to either.
        """
        shard = tuple(part.detach().contiguous() for part in shard)
        # From the shape: a rank without rows must come to the same choice as the others.
        row_bytes = sum(part.shape[1:].numel() * part.element_size() for part in shard)
        if self.ranks.size == 1:
            return visit(0, shard)
        if self.ranks.gathers(row_bytes * sum(self.rows)):
            return self._all_at_once(shard, visit, merge)
        return self._around(shard, visit, merge)

    def _around(self, shard: Parts, visit: Visit, merge: Merge) -> Parts:
        W, rank = self.ranks.size, self.ranks.rank
        to, source = (rank + 1) % W, (rank - 1) % W
        arriving: _Transfer | None = None
        for step in range(W):
            owner, following = (rank - step) % W, (rank - step - 1) % W
            coming = None
            if step < W - 1:
                coming = self._start([(to, shard)], [(source, self._buffers(shard, following))])
            found = visit(owner, shard)
            if arriving is not None:
                total = arriving.wait()[0]
                found = tuple(merge(mine, part) for mine, part in zip(total, found, strict=True))
            arriving = self._start([(to, found)], [(source, self._buffers(found, following))])
            if coming is not None:
                shard = coming.wait()[0]
        assert arriving is not None
        return arriving.wait()[0]

    def _all_at_once(self, shard: Parts, visit: Visit, merge: Merge) -> Parts:
        W, rank = self.ranks.size, self.ranks.rank
        others = [r for r in range(W) if r != rank]
        coming = self._start(
            [(r, shard) for r in others], [(r, self._buffers(shard, r)) for r in others]
        )  # fmt: skip
        found = {rank: visit(rank, shard)}
        for r, part in zip(others, coming.wait(), strict=True):
            found[r] = visit(r, part)
        going = self._start(
            [(r, found[r]) for r in others], [(r, self._buffers(found[rank], rank)) for r in others]
        )  # fmt: skip
        returned = dict(zip(others, going.wait(), strict=True))
        returned[rank] = found[rank]
        total = returned[0]
        for r in range(1, W):
            total = tuple(merge(mine, part) for mine, part in zip(total, returned[r], strict=True))
        return total

    def _buffers(self, like: Parts, owner: int) -> Parts:
        return tuple(part.new_empty((self.rows[owner], *part.shape[1:])) for part in like)

    def _start(self, sends: list[tuple[int, Parts]], receives: list[tuple[int, Parts]]) -> _Transfer:
        group, peer = self.ranks.group, self._global_ranks
        # An empty tensor is empty on both sides; neither gloo nor NCCL need see it.
        operations = [
            dist.P2POp(call, part, peer[r], group)
            for call, parts in ((dist.isend, sends), (dist.irecv, receives))
            for r, tensors in parts
            for part in tensors
            if part.numel() > 0
        ]
        return _Transfer(operations, [tensors for _, tensors in receives])


class _Transfer:
    """Tensors on their way; what is sent is kept until it has left."""

    def __init__(self, operations: list[dist.P2POp], received: list[Parts]) -> None:
        self.operations, self.received = operations, received
        self.works = dist.batch_isend_irecv(operations) if operations else []

    def wait(self) -> list[Parts]:
        for work in self.works:
            work.wait()
        self.operations = []
        return self.received
