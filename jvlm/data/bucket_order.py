"""Batches of one shape each, by position: every bucket is a stream of its own, and batches are dealt from all of them.

Nothing is left over: what does not fill a batch in one pass over the data begins the bucket's first batch of the next.
"""

import bisect
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jvlm.core.errors import UserError
from jvlm.data import shuffle
from jvlm.data.mixture import Mixed, Mixture
from jvlm.data.shuffle import Order, Place
from jvlm.data.sources import Source


class Chosen:
    """The samples `members` [m] of a source in the order that `inner` has for m samples."""

    def __init__(self, inner: Order, members: Int[np.ndarray, "m"]):
        self.inner, self.members = inner, members
        self.epoch_size = inner.epoch_size

    def __call__(self, position: int) -> Place:
        epoch, index = self.inner(position)
        return Place(epoch, int(self.members[index]))


class Bucketed:
    """Positions of batches of `batch_size`, each of samples of one of `orders`.

    `counts`: how many samples of each the data has, so that after c passes bucket k has had floor(c counts[k] /
    batch_size) batches. Within a pass the buckets come in random order. A bucket smaller than a batch has one every few
    passes, in which its samples repeat.
    """

    def __init__(self, orders: Sequence[Order], counts: Sequence[int], batch_size: int, seed: int):
        self.orders, self.batch_size, self.seed = list(orders), batch_size, seed
        self.counts = np.asarray(counts, np.int64)
        self.epoch_size = int(self.counts.sum())
        self._prepare()

    def _prepare(self) -> None:
        self._pass = functools.lru_cache(maxsize=2)(self._make_pass)
        self._batch = functools.lru_cache(maxsize=64)(self._find)

    def __reduce__(self):
        return type(self), (self.orders, self.counts.tolist(), self.batch_size, self.seed)

    def before(self, passes: int) -> Int[np.ndarray, "k"]:
        """Batches of each bucket in the first `passes` passes."""
        return passes * self.counts // self.batch_size

    def _make_pass(self, number: int) -> tuple[int, np.ndarray, np.ndarray]:
        """(batches before, bucket and rank within the bucket of each batch) of a pass."""
        before, after = self.before(number), self.before(number + 1)
        buckets = np.repeat(np.arange(len(self.counts)), after - before)
        buckets = buckets[shuffle.permutation(len(buckets), self.seed, number, 6)]
        order = np.argsort(buckets, kind="stable")
        ranks = np.empty(len(buckets), np.int64)
        sizes = after - before
        ranks[order] = np.arange(len(buckets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return int(before.sum()), buckets, ranks + before[buckets]

    def _find(self, number: int) -> tuple[int, int]:
        low = number * self.batch_size // self.epoch_size  # these passes have no more than so many batches
        high = (number + len(self.counts)) * self.batch_size // self.epoch_size + 1  # and these have more
        passes = range(low, high + 1)
        at = passes[bisect.bisect_right(passes, number, key=lambda c: int(self.before(c).sum())) - 1]
        first, buckets, ranks = self._pass(at)
        return int(buckets[number - first]), int(ranks[number - first])

    def bucket(self, number: int) -> int:
        """The bucket of batch `number`, counted from the start of training."""
        return self._batch(number)[0]

    def __call__(self, position: int) -> Place:
        number, row = divmod(position, self.batch_size)
        bucket, rank = self._batch(number)
        return self.orders[bucket](rank * self.batch_size + row)


def bucket_orders(
    source: Source,
    buckets: Int[np.ndarray, "n"],
    count: int,
    batch_size: int,
    seed: int,
    block_bytes: int = shuffle.BLOCK_BYTES,
    window_blocks: int = shuffle.WINDOW_BLOCKS,
) -> tuple[list[int], Bucketed]:
    """The buckets (of `count`) that are drawn from, and their order; `buckets`: each sample's, -1 for none."""
    used, orders, counts = [], [], []
    for bucket in range(count):
        order, share = _order(source, np.flatnonzero(buckets == bucket), seed, block_bytes, window_blocks)
        if order is not None:
            used.append(bucket)
            orders.append(order)
            counts.append(max(1, round(share * len(source))))
    if not used:
        raise UserError("no sample of the data has one of the shapes of pipeline.buckets")
    return used, Bucketed(orders, counts, batch_size, seed)


def _order(
    source: Source, members: Int[np.ndarray, "m"], seed: int, block_bytes: int, window_blocks: int
) -> tuple[Order | None, float]:
    """The order of some samples of a source, and the share that they are of what is drawn from it; None, 0 if none."""
    if not len(members):
        return None, 0.0
    if not isinstance(source, Mixture):
        block = shuffle.block_size(source.sample_bytes, block_bytes)
        return Chosen(shuffle.Shuffled(len(members), seed, block, window_blocks), members), len(members) / len(source)
    orders, weights, starts = [], [], []
    start = 0
    for number, (part, weight) in enumerate(zip(source.sources, source.weights)):
        inside = members[(members >= start) & (members < start + len(part))] - start
        order, share = _order(part, inside, shuffle.mix(seed, number), block_bytes, window_blocks)
        if order is not None and weight > 0:
            orders.append(order)
            weights.append(weight * share)
            starts.append(start)
        start += len(part)
    return (Mixed(orders, weights, starts), sum(weights)) if orders else (None, 0.0)
