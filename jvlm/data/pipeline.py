"""Batches for training and evaluation, read through grain.

The position in the data is one integer, the number of samples consumed by all processes together. What stands at a
position depends on the seed alone, so a run resumes anywhere, on any number of processes and workers.
"""

import collections
import dataclasses
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from etils import epath
from jaxtyping import Int

from jvlm.core import build
from jvlm.core.errors import ConfigError, UserError
from jvlm.data import shuffle
from jvlm.data.augment import UNCHANGED, Augment
from jvlm.data.batches import Bad, BatchMaker
from jvlm.data.bucket_batches import BucketMaker, bucket_maker
from jvlm.data.buckets import Size
from jvlm.data.image_ops import MAX_DECODED_BYTES
from jvlm.data.mixture import Mixture
from jvlm.data.processor import Processor
from jvlm.data.rows import RowMaker
from jvlm.data.sources import Source

Maker = BatchMaker | BucketMaker | RowMaker
FOREVER = 2**48
SHOWN = 3


class BatchIterator(Iterator[dict[str, np.ndarray]]):
    """This process's part of each global batch, as numpy arrays.

    `position`: samples consumed so far by all processes. `counters`: bad samples of this process by cause, exact for
    the batches handed out. Both go into a checkpoint; `make_train_iterator` takes them back. `facts` are what is known
    of the data before the first batch, for a log.
    """

    def __init__(
        self, batches: Iterator[Any], position: int, batch_size: int, counters: Mapping[str, int],
        max_bad: float, min_bad: int, seen: int,
    ):  # fmt: skip
        self.position = position
        self.counters: dict[str, int] = dict(counters)
        self._batches, self._batch_size = batches, batch_size
        self._max_bad, self._min_bad, self._seen = max_bad, min_bad, seen
        self._first: list[Bad] = []
        self.facts: dict[str, float | int] = {}
        # Also at exit: worker processes that outlive the interpreter's modules leave shared memory behind.
        self._finalizer = weakref.finalize(self, getattr(batches, "close", lambda: None))

    def close(self) -> None:
        """Ends worker processes and threads; called on its own when the iterator is dropped."""
        self._finalizer()

    def __next__(self) -> dict[str, np.ndarray]:
        batch = next(self._batches)
        self._count(batch.pop("bad"), batch.pop("seen", len(batch["weight"])))
        self.position += self._batch_size
        # Worker processes hand over shared memory. What callers keep (indices, labels) must not pin it.
        return {k: v if k == "image" else np.array(v) for k, v in batch.items()}

    def _count(self, bad: Sequence[Bad], size: int) -> None:
        self._seen += size
        for one in bad:
            self.counters[one.cause] = self.counters.get(one.cause, 0) + 1
        self._first += bad[: SHOWN - len(self._first)]
        total = sum(self.counters.values())
        if bad and total >= self._min_bad and total > self._max_bad * self._seen:
            causes = ", ".join(f"{n} {cause}" for cause, n in sorted(self.counters.items()))
            first = "; ".join(one.message for one in self._first)
            raise UserError(
                f"{total} of {self._seen} samples are bad ({causes}), more than {self._max_bad:.1%}; the first: "
                f"{first}; repair them (jvlm data check lists them) or raise config.pipeline.max_bad"
            )


@dataclasses.dataclass(frozen=True)
class Reading:
    """How batches are read, whatever they hold.

    Process `process_index` of `process_count` gets its contiguous part of each global batch. With `workers` processes,
    or with `threads` threads when 0, the order is the same; at most `prefetch_bytes` are read ahead. Bad samples have
    weight 0; from `min_bad` on, more than the fraction `max_bad` of them is a UserError. `counters` go on from a
    checkpoint's.
    """

    process_index: int = 0
    process_count: int = 1
    workers: int = 0
    threads: int | None = None
    counters: Mapping[str, int] | None = None
    max_bad: float = 0.05
    min_bad: int = 32
    prefetch_bytes: int = 2**28

    def part(self, batch_size: int) -> tuple[int, int]:
        """Offset and size of this process's part of a global batch. ConfigError when it does not divide."""
        if batch_size < 1 or batch_size % self.process_count:
            raise ConfigError(f"batch_size={batch_size} does not divide among {self.process_count} processes")
        local = batch_size // self.process_count
        return self.process_index * local, local

    def iterate(self, maker: Maker, count: int, position: int, batch_size: int, read_before: int) -> BatchIterator:
        """Batches 0 to `count` of `maker`; all processes together have read `read_before` samples before."""
        batches = read(maker, count, self.workers, self.threads, self.prefetch_bytes)
        seen = read_before // self.process_count if self.counters else 0
        return BatchIterator(batches, position, batch_size, self.counters or {}, self.max_bad, self.min_bad, seen)


def make_train_iterator(
    source: Source,
    processor: Processor,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    augment: Augment | None = UNCHANGED,
    group: str | Int[np.ndarray, "n"] | None = None,
    label: bool = False,
    block_bytes: int = shuffle.BLOCK_BYTES,
    window_blocks: int = shuffle.WINDOW_BLOCKS,
    max_image_bytes: int = MAX_DECODED_BYTES,
    moments: tuple[int, int, int] | None = None,
    sizes: bool = False,
    buckets: Sequence[Size] = (),
    cache: epath.PathLike | None = None,
    **reading: Any,
) -> BatchIterator:
    """Shuffled batches without end: `image` [b, H, W, 3], `tokens` [b, T], `weight` [b], `index` [b] (, `label` [b]).

    `batch_size` is global. `group` (a key of `extra`, or a number per sample) keeps samples of a group out of each
    other's batches; the order then depends on `batch_size` as well. With `moments`, their shape, a batch has `moments`
    [b, h, w, 2 Z] instead of pictures, from shards of latents, and `sizes` adds [b, 6] of what became of each picture.
    With `buckets`, (height, width) of pictures or of latents, each batch has one of these (see `bucket_maker`); the
    samples are measured first, and what was measured is kept in the folder `cache`. `reading` are fields of `Reading`.
    """
    how = build.call(Reading, reading, "pipeline")
    order = make_order(source, seed, batch_size, group, block_bytes, window_blocks)
    offset, local = how.part(batch_size)
    maker = BatchMaker(
        source, processor, order, batch_size, offset, local, position,
        seed=seed, augment=augment, label=label, max_bytes=max_image_bytes, moments=moments, sizes=sizes,
    )  # fmt: skip
    facts: dict[str, float | int] = {"samples": len(source)}
    if buckets:
        if group is not None or (augment is not None and augment.crop_scale is not None):
            other = "group" if group is not None else "augment.crop_scale"
            raise ConfigError(f"pipeline.buckets and pipeline.{other} exclude each other; leave one out")
        maker, facts = bucket_maker(maker, buckets, how.max_bad, how.min_bad, cache, block_bytes, window_blocks)
    iterator = how.iterate(maker, FOREVER, position, batch_size, position)
    iterator.facts = facts
    return iterator


def make_eval_iterator(
    source: Source,
    processor: Processor,
    *,
    batch_size: int,
    label: bool = False,
    captions: int = 1,
    max_image_bytes: int = MAX_DECODED_BYTES,
    **reading: Any,
) -> BatchIterator:
    """All samples once, in order, exactly as the model's processor makes them; the last batch is filled with weight 0.

    Filling rows have index -1. `captions=c` above 1 gives the first c captions of each sample, `tokens` [b, c, T], and
    `caption_weight` [b, c]. Every process gets the same number of batches. `reading` are fields of `Reading`.
    """
    how = build.call(Reading, reading, "pipeline")
    offset, local = how.part(batch_size)
    maker = BatchMaker(
        source, processor, shuffle.Sequential(len(source)), batch_size, offset, local,
        stop=len(source), label=label, captions=captions, max_bytes=max_image_bytes,
    )  # fmt: skip
    return how.iterate(maker, -(-len(source) // batch_size), 0, batch_size, 0)


def make_order(
    source: Source,
    seed: int,
    batch_size: int,
    group: str | Int[np.ndarray, "n"] | None = None,
    block_bytes: int = shuffle.BLOCK_BYTES,
    window_blocks: int = shuffle.WINDOW_BLOCKS,
) -> shuffle.Order:
    """Which sample stands at which position."""
    if group is not None:
        groups = group_numbers(source, group) if isinstance(group, str) else group
        if len(groups) != len(source):
            raise ConfigError(f"{len(groups)} group numbers for {len(source)} samples: give one each")
        return shuffle.Grouped(groups, batch_size, seed)
    if isinstance(source, Mixture):
        parts = enumerate(source.sources)
        return source.order(
            [make_order(s, shuffle.mix(seed, i), batch_size, None, block_bytes, window_blocks) for i, s in parts]
        )
    block = shuffle.block_size(source.sample_bytes, block_bytes)
    return shuffle.Shuffled(len(source), seed, block, window_blocks)


def group_numbers(source: Source, key: str) -> Int[np.ndarray, "n"]:
    """A number for each distinct `extra[key]`; reads the whole source once. UserError where the key is missing."""
    numbers: dict[str, int] = collections.defaultdict(lambda: len(numbers))
    out = np.empty(len(source), np.int64)
    for i in range(len(source)):
        sample = source[i]
        if key not in sample.extra:
            raise UserError(f"{sample.key or i}: no {key!r} to group by, only {sorted(sample.extra)}")
        out[i] = numbers[str(sample.extra[key])]
    return out


def read(maker: Maker, count: int, workers: int, threads: int | None, prefetch_bytes: int) -> Iterator[Any]:
    """Batches 0 to `count` of `maker`, made ahead by threads or by worker processes."""
    size = sum(v.nbytes for v in maker.empty().values())
    ahead = max(1, prefetch_bytes // max(1, size))
    threads = min(ahead, threads or min(16, os.cpu_count() or 1)) if not workers else 1
    dataset = grain.MapDataset.range(count).map(maker)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=min(ahead, 64))
    if workers:
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    stream = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags, which only absl's own launcher parses
        each = max(1, min(16, ahead // workers))
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each))
    return iter(stream)
