"""Which sample stands at which position: a function of the seed and the position, and of nothing else.

Positions count samples from the start of training and never end; each pass over the data is an epoch with its own
order. Permutations sort a 64-bit hash (SplitMix64, Steele et al. 2014), so they stay the same in every version of
every library.
"""

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from jvlm.core.errors import UserError

BLOCK_BYTES = 8 * 2**20
WINDOW_BLOCKS = 16
MASK = 2**64 - 1


class Place(NamedTuple):
    """A sample of one pass over the data."""

    epoch: int
    index: int


@runtime_checkable
class Order(Protocol):
    """Places by position."""

    epoch_size: int

    def __call__(self, position: int) -> Place: ...


def mix(*values: int) -> int:
    """A 64-bit key from integers."""
    key = 0
    for value in values:
        # The arithmetic of `_splitmix` in Python's integers, which are far quicker for a single one.
        z = ((key ^ (value & MASK)) + 0x9E3779B97F4A7C15) & MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        key = z ^ (z >> 31)
    return key


def permutation(size: int, *seed: int) -> Int[np.ndarray, "size"]:
    """A permutation of `range(size)` that depends on `seed` alone."""
    keys = np.arange(size, dtype=np.uint64) + np.uint64(mix(*seed))
    return np.argsort(_splitmix(keys), kind="stable")


def _splitmix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Sequential:
    """The samples as they lie, over and over."""

    def __init__(self, size: int):
        self.epoch_size = size

    def __call__(self, position: int) -> Place:
        return Place(*divmod(position, self.epoch_size))


class Shuffled:
    """Blocks of neighbouring samples in random order, then all samples of a window of blocks in random order.

    Storage is read in runs of a block, and `window` blocks are in use at a time.
    """

    def __init__(self, size: int, seed: int, block: int, window: int = WINDOW_BLOCKS):
        if size < 1:
            raise UserError("the dataset is empty: check its paths and filters")
        self.epoch_size = size
        self.seed, self.block, self.window = seed, max(1, block), window
        self._prepare()

    def _prepare(self) -> None:
        self._blocks = functools.lru_cache(maxsize=2)(self._make_blocks)
        self._window = functools.lru_cache(maxsize=8)(self._make_window)

    def __reduce__(self):
        return type(self), (self.epoch_size, self.seed, self.block, self.window)

    def _make_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        count = -(-self.epoch_size // self.block)
        order = permutation(count, self.seed, epoch, 0)
        sizes = np.minimum((order + 1) * self.block, self.epoch_size) - order * self.block
        ends = np.cumsum(sizes)[self.window - 1 :: self.window]
        return order, np.append(ends[ends < self.epoch_size], self.epoch_size)  # where each window ends

    def _make_window(self, epoch: int, number: int) -> np.ndarray:
        order, _ = self._blocks(epoch)
        starts = order[number * self.window : (number + 1) * self.window] * self.block
        samples = np.concatenate([np.arange(s, min(s + self.block, self.epoch_size)) for s in starts])
        return samples[permutation(len(samples), self.seed, epoch, 1, number)]

    def __call__(self, position: int) -> Place:
        epoch, within = divmod(position, self.epoch_size)
        _, ends = self._blocks(epoch)
        number = int(np.searchsorted(ends, within, side="right"))
        start = int(ends[number - 1]) if number else 0
        return Place(epoch, int(self._window(epoch, number)[within - start]))


class Grouped:
    """No two samples of a group in one batch.

    With K the largest number of batches for which every group, giving at most one sample to each, can fill them all
    (sum of min(group size, K) at least K times the batch), an epoch is K batches: groups in random order, each with
    at most K random members, are dealt to the batches in turn, so that a group's members go to different batches.
    Samples beyond that wait for another epoch.
    """

    def __init__(self, groups: Int[np.ndarray, "n"], batch_size: int, seed: int):
        self.groups, self.batch_size, self.seed = np.asarray(groups), batch_size, seed
        sizes = np.unique(self.groups, return_counts=True)[1]
        low, high = 0, len(self.groups) // batch_size
        while low < high:
            middle = (low + high + 1) // 2
            enough = np.minimum(sizes, middle).sum() >= middle * batch_size
            low, high = (middle, high) if enough else (low, middle - 1)
        if low == 0:
            raise UserError(
                f"{len(sizes)} groups cannot fill a batch of {batch_size} with one sample each: lower batch_size"
            )
        self.batches = low
        self.epoch_size = low * batch_size
        self._prepare()

    def _prepare(self) -> None:
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    def __reduce__(self):
        return type(self), (self.groups, self.batch_size, self.seed)

    def _make_epoch(self, epoch: int) -> np.ndarray:
        shuffled = permutation(len(self.groups), self.seed, epoch, 0)
        _, group = np.unique(self.groups, return_inverse=True)
        place = permutation(int(group.max()) + 1, self.seed, epoch, 1)[group[shuffled]]
        by_group = shuffled[np.argsort(place, kind="stable")]  # groups together, members in random order
        ordered = np.sort(place, kind="stable")
        rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
        chosen = by_group[rank < self.batches]
        surplus = permutation(len(chosen), self.seed, epoch, 2)[: self.epoch_size]
        dealt = chosen[np.sort(surplus)].reshape(self.batch_size, self.batches).T  # [batches, batch]
        dealt = dealt[permutation(self.batches, self.seed, epoch, 3)]
        rows = [row[permutation(len(row), self.seed, epoch, 4, i)] for i, row in enumerate(dealt)]
        return np.concatenate(rows)

    def __call__(self, position: int) -> Place:
        epoch, within = divmod(position, self.epoch_size)
        return Place(epoch, int(self._epoch(epoch)[within]))


def block_size(sample_bytes: int, block_bytes: int = BLOCK_BYTES) -> int:
    """Samples in a block of about `block_bytes`."""
    return max(1, block_bytes // max(1, sample_bytes))
