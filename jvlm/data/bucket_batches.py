"""Batches of pictures, or of latents, of one shape each: measured, sorted into buckets, then read like any other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int16

from jvlm.core.errors import ConfigError
from jvlm.data import shuffle
from jvlm.data.batches import BatchMaker
from jvlm.data.bucket_order import Bucketed, bucket_orders
from jvlm.data.buckets import Size, equal, nearest
from jvlm.data.measured import Table, refuse
from jvlm.data.sizes import measure_sizes


@dataclasses.dataclass
class BucketMaker:
    """Batch number -> arrays for this process, as the maker of the batch's bucket makes them; picklable."""

    makers: Sequence[BatchMaker]
    order: Bucketed
    base: int

    def __call__(self, number: int) -> dict[str, Any]:
        return self.makers[self.order.bucket(self.base + number)](number)

    def empty(self) -> dict[str, np.ndarray]:
        """A batch of placeholders of the largest bucket."""
        return max(self.makers, key=lambda maker: np.prod(_shape(maker))).empty()


def bucket_maker(
    maker: BatchMaker,
    sizes: Sequence[Size],
    max_bad: float,
    min_bad: int,
    cache: epath.PathLike | None = None,
    block_bytes: int = shuffle.BLOCK_BYTES,
    window_blocks: int = shuffle.WINDOW_BLOCKS,
) -> tuple[BucketMaker, dict[str, float | int]]:
    """What makes the batches of `maker` from one bucket each, and what a log says of them.

    `sizes` are (height, width) of the buckets. A picture goes to that of the nearest aspect ratio, scaled to cover it
    and cropped; an array of latents to that of its own size, or else to none. Facts: samples, those left out, buckets
    in use, samples of the smallest, batches of the first pass and samples that wait for a later one. UserError when
    too many samples cannot be used.
    """
    if maker.base % maker.batch_size:
        raise ConfigError(f"position {maker.base} is within a batch of {maker.batch_size}; buckets have whole batches")
    table = measure_sizes(maker.source, maker.moments is not None, cache, maker.max_bytes)
    which = (equal if maker.moments else nearest)(sizes, table.values)
    refuse(_with_placeless(table, which), "pictures", max_bad, min_bad)
    seed = maker.seed or 0
    used, order = bucket_orders(maker.source, which, len(sizes), maker.batch_size, seed, block_bytes, window_blocks)
    made = BucketMaker([_of(maker, order, sizes[number]) for number in used], order, maker.base // maker.batch_size)
    batches = int(order.before(1).sum())
    facts: dict[str, float | int] = {
        "samples": int((which >= 0).sum()),
        "left_out": int((which < 0).sum()),
        "buckets": len(used),
        "smallest_bucket": int(order.counts.min()),
        "batches": batches,
        "waiting": order.epoch_size - batches * maker.batch_size,
    }
    return made, facts


def _with_placeless(table: Table, which: Int16[np.ndarray, "n"]) -> Table:
    """`table` with the latents that have a size, but none of the buckets', among the bad."""
    lost = np.flatnonzero((which < 0) & (table.values > 0).all(axis=1))
    if not len(lost):
        return table
    cause, size = "other latents", table.values[lost[0]].tolist()
    first = f"sample {lost[0]}: latents {size}, a size that pipeline.buckets has not"
    return Table(table.values, table.bad | {cause: len(lost)}, table.first | {cause: [first]})


def _of(maker: BatchMaker, order: Bucketed, size: Size) -> BatchMaker:
    """`maker` of pictures, or of latents, of `size`."""
    if maker.moments:
        return dataclasses.replace(maker, order=order, moments=(*size, maker.moments[-1]))
    spec = maker.processor.image
    assert spec is not None, "a model of pictures has their preprocessing"
    processor = dataclasses.replace(maker.processor, image=spec.covering(size))
    return dataclasses.replace(maker, order=order, processor=processor)


def _shape(maker: BatchMaker) -> tuple[int, ...]:
    spec = maker.processor.image
    return maker.moments or (spec.size if spec else ())
