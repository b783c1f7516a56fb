"""Training batches of packed conversations: measured, planned, then read like any other data."""

from typing import Any

from etils import epath

from jvlm.core import build
from jvlm.data import shuffle
from jvlm.data.conversations import ConversationSource
from jvlm.data.lengths import Lengths, measure_lengths
from jvlm.data.measured import refuse
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.packing import WINDOW, Packed
from jvlm.data.pipeline import FOREVER, BatchIterator, Reading, make_order
from jvlm.data.rows import RowMaker


def make_conversation_iterator(
    source: ConversationSource,
    processor: MultimodalProcessor,
    *,
    batch_size: int,
    seed: int,
    position: int = 0,
    pack: bool = True,
    window: int = WINDOW,
    cache: epath.PathLike | None = None,
    block_bytes: int = shuffle.BLOCK_BYTES,
    window_blocks: int = shuffle.WINDOW_BLOCKS,
    **reading: Any,
) -> BatchIterator:
    """Shuffled rows without end, as `rows.RowMaker` makes them; `position` and `batch_size` count rows.

    The samples are measured first (kept in the folder `cache`), `window` of them packed together; with `pack` False
    every sample has a row. What was measured and planned is in the iterator's `facts`. Samples that cannot be used are
    left out; from `min_bad` on, more than the fraction `max_bad` of them is a UserError, before any step. `reading` are
    fields of `Reading`.
    """
    how = build.call(Reading, reading, "pipeline")
    table = measure_lengths(source, processor, cache)
    refuse(table, "conversations", how.max_bad, how.min_bad)
    lengths = Lengths.of(table)
    any_source: Any = source  # ordered like samples: by number and mean size alone
    order = make_order(any_source, seed, batch_size, None, block_bytes, window_blocks)
    rows = Packed(order, lengths.tokens, lengths.tiles, processor.length, processor.max_tiles, seed, window, not pack)
    offset, local = how.part(batch_size)
    maker = RowMaker(source, processor, rows, batch_size, offset, local, position)
    used = int((lengths.tokens > 0).sum())
    iterator = how.iterate(maker, FOREVER, position, batch_size, position * used // max(1, rows.rows()))
    iterator.facts = facts(lengths, rows)
    return iterator


def facts(lengths: Lengths, rows: Packed) -> dict[str, float | int]:
    """What a log says of a plan: samples, those left out, rows of the first epoch, tokens, utilisation in 0..1."""
    used = int((lengths.tokens > 0).sum())
    return {
        "samples": used,
        "left_out": len(lengths.tokens) - used,
        "rows": rows.rows(),
        "samples_per_row": used / rows.rows(),
        "tokens": int(lengths.tokens.sum()),
        "answer_tokens": int(lengths.answers.sum()),
        "row_answers": rows.most(lengths.answers),
        "utilisation": rows.utilisation(),
    }
