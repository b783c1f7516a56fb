"""Rows of one length from conversations of any: planned from a table of lengths, so that the position counts rows.

Within a fixed window of the shuffled order the longest goes first into the fullest row that has room (best fit
decreasing), for tokens and for tiles at once. What stands in a row is a function of the table, the seed and the row.
"""

import bisect
import functools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jvlm.core.errors import UserError
from jvlm.data.shuffle import Order, permutation

WINDOW = 4096
"""Samples that are packed together: rows are filled to within a few per cent, and storage is still read in runs."""


class Row(NamedTuple):
    """The samples of a row, in order, of one pass over the data."""

    epoch: int
    samples: list[int]


def fill_rows(
    lengths: Sequence[int] | Int[np.ndarray, "n"],
    tiles: Sequence[int] | Int[np.ndarray, "n"],
    length: int,
    max_tiles: int,
    alone: bool = False,
) -> list[list[int]]:
    """Numbers of the samples of each row: none above `length` tokens or `max_tiles` tiles; those of length 0 nowhere.

    `alone` gives every sample a row of its own.
    """
    order = sorted((i for i in range(len(lengths)) if lengths[i] > 0), key=lambda i: (-lengths[i], i))
    if alone:
        return [[i] for i in sorted(order)]
    rows: list[list[int]] = []
    spare: list[int] = []  # tiles that a row has left
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for sample in order:
        need, pictures = int(lengths[sample]), int(tiles[sample])
        if need > length or pictures > max_tiles:
            raise UserError(f"sample {sample}: {need} tokens and {pictures} tiles; a row has {length} and {max_tiles}")
        at = bisect.bisect_left(room, (need, -1))
        while at < len(room) and spare[room[at][1]] < pictures:
            at += 1
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = length, len(rows)
            rows.append([])
            spare.append(max_tiles)
        rows[row].append(sample)
        spare[row] -= pictures
        if left > need:
            bisect.insort(room, (left - need, row))
    return rows


class Packed:
    """Rows by position: those of each window of `order`'s samples, in random order, epoch after epoch.

    `lengths` and `tiles` [n] are the table; samples of length 0 are left out.
    """

    def __init__(
        self,
        order: Order,
        lengths: Int[np.ndarray, "n"],
        tiles: Int[np.ndarray, "n"],
        length: int,
        max_tiles: int,
        seed: int,
        window: int = WINDOW,
        alone: bool = False,
    ):
        if not (lengths > 0).any():
            raise UserError("no sample of the data can be used: jvlm data check says why")
        self.order, self.lengths, self.tiles = order, lengths, tiles
        self.length, self.max_tiles, self.seed, self.window, self.alone = length, max_tiles, seed, window, alone
        self._starts = [0]
        self._prepare()

    def _prepare(self) -> None:
        self._epoch = functools.lru_cache(maxsize=2)(self._plan)
        self._lock = threading.Lock()  # rows are asked for from many threads

    def __reduce__(self):
        fields = (self.lengths, self.tiles, self.length, self.max_tiles, self.seed, self.window, self.alone)
        return type(self), (self.order, *fields)

    def _plan(self, epoch: int) -> list[list[int]]:
        rows: list[list[int]] = []
        size = self.order.epoch_size
        for number, start in enumerate(range(0, size, self.window)):
            positions = range(epoch * size + start, epoch * size + min(start + self.window, size))
            here = np.asarray([self.order(p).index for p in positions])
            made = fill_rows(self.lengths[here], self.tiles[here], self.length, self.max_tiles, self.alone)
            rows += [here[made[k]].tolist() for k in permutation(len(made), self.seed, epoch, 5, number)]
        return rows

    def __call__(self, position: int) -> Row:
        """The row at `position`, counted from the start of training."""
        with self._lock:
            while self._starts[-1] <= position:
                self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
            epoch = bisect.bisect_right(self._starts, position) - 1
            return Row(epoch, self._epoch(epoch)[position - self._starts[epoch]])

    def rows(self, epoch: int = 0) -> int:
        """Rows of a pass over the data."""
        return len(self._epoch(epoch))

    def most(self, counts: Int[np.ndarray, "n"]) -> int:
        """The largest sum of the samples' `counts` in a row of the first pass."""
        return max(int(counts[row].sum()) for row in self._epoch(0))

    def utilisation(self, epoch: int = 0) -> float:
        """The fraction of a pass's tokens that are not padding."""
        rows = self._epoch(epoch)
        return sum(int(self.lengths[row].sum()) for row in rows) / (len(rows) * self.length)
