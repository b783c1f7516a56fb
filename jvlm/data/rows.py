"""Batches of packed conversations: arrays of one shape, what is bad left blank. Nothing is raised."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jvlm.data.batches import Bad
from jvlm.data.conversations import ConversationSource
from jvlm.data.image_ops import BadPicture
from jvlm.data.multimodal import TEXT, Encoded, MultimodalProcessor
from jvlm.data.packing import Row
from jvlm.data.sources import BadSample


@dataclasses.dataclass
class RowMaker:
    """Batch number -> arrays for this process; picklable, for worker processes.

    Batch `j` covers the rows from `base + j * batch_size` on, of which this process makes `count` from `offset` on.
    `tokens`, `positions`, `segments` (0: padding, 1, ...: the samples of a row), `places` (which of the row's features
    an image token takes, -1 a new line, -2 a text token) int32 [b, T], `answer` bool [b, T], `image` float32 [b, M, H,
    W, 3] and `image_mask` bool [b, M] where the model takes pictures, `question` and `question_mask` [b, M, U] where
    its bridge reads what is asked, `weight` [b] (0: nothing in the row), `index` [b] the row's first sample or -1. Rows
    from `stop` on are placeholders.
    """

    source: ConversationSource
    processor: MultimodalProcessor
    rows: Callable[[int], Row]
    batch_size: int
    offset: int
    count: int
    base: int = 0
    stop: int | None = None

    def __call__(self, number: int) -> dict[str, Any]:
        batch = self.empty()
        bad: list[Bad] = []
        seen = 0
        start = self.base + number * self.batch_size + self.offset
        for row in range(self.count):
            if self.stop is not None and start + row >= self.stop:
                continue
            samples = self.rows(start + row).samples
            seen += len(samples)
            used = [0, 0, 0]  # tokens, tiles, segments
            for index in samples:
                try:
                    self._place(batch, row, index, used)
                except (BadSample, BadPicture) as error:
                    bad.append(Bad(index, error.cause, f"sample {index}: {error}"))
                except OSError as error:
                    bad.append(Bad(index, "read error", f"sample {index}: {error}"))
                except Exception as error:  # an exception that leaves a grain map ends the iterator
                    bad.append(Bad(index, "unexpected error", f"sample {index}: {type(error).__name__}: {error}"))
            if used[2]:
                batch["weight"][row] = 1.0
        return {**batch, "bad": bad, "seen": seen}

    def empty(self) -> dict[str, np.ndarray]:
        """A batch of placeholders: valid arrays of weight 0."""
        processor, count = self.processor, self.count
        shape = (count, processor.length)
        batch = {
            "tokens": np.full(shape, processor.tokenizer.pad_id, np.int32),
            "answer": np.zeros(shape, bool),
            "positions": np.zeros(shape, np.int32),
            "segments": np.zeros(shape, np.int32),
            "places": np.full(shape, TEXT, np.int32),
            "weight": np.zeros(count, np.float32),
            "index": np.full(count, -1, np.int64),
        }
        if processor.pictures is not None:
            batch["image"] = np.zeros((count, processor.max_tiles, *processor.pictures.size, 3), np.float32)
            batch["image_mask"] = np.zeros((count, processor.max_tiles), bool)
            if processor.question:
                asked = (count, processor.max_tiles, processor.question)
                batch["question"] = np.full(asked, processor.tokenizer.pad_id, np.int32)
                batch["question_mask"] = np.zeros(asked, bool)
        return batch

    def _place(self, batch: dict[str, np.ndarray], row: int, index: int, used: list[int]) -> None:
        """Sample `index` behind what stands in `row`: all of it or, when anything is wrong with it, nothing."""
        processor = self.processor
        conversation = self.source[index]
        encoded = processor.encode(conversation)
        tiles = [processor.pictures.arrays(p) for p in conversation.images] if processor.pictures else []
        start, tile, segment = used
        end, last = start + len(encoded.tokens), tile + encoded.tiles
        if end > processor.length or last > processor.max_tiles or sum(map(len, tiles)) != encoded.tiles:
            raise BadSample(f"{conversation.key}: it is not as it was when the rows were planned", "changed sample")
        here = slice(start, end)
        batch["tokens"][row, here] = encoded.tokens
        batch["answer"][row, here] = encoded.answer
        batch["answer"][row, start] = False  # nothing stands before it that could predict it
        batch["positions"][row, here] = np.arange(end - start)
        batch["segments"][row, here] = segment + 1
        batch["places"][row, here] = self._shifted(encoded, tile)
        if tiles:
            batch["image"][row, tile:last] = np.concatenate(tiles)
            batch["image_mask"][row, tile:last] = True
            if processor.question:
                ids, mask = processor.asked_row(processor.asked(conversation.messages), processor.question)
                batch["question"][row, tile:last], batch["question_mask"][row, tile:last] = ids, mask
        if batch["index"][row] < 0:
            batch["index"][row] = index
        used[:] = [end, last, segment + 1]

    def _shifted(self, encoded: Encoded, tile: int) -> np.ndarray:
        """`places` counted through the row's tiles instead of the sample's."""
        features = self.processor.pictures.features if self.processor.pictures else 0
        return np.where(encoded.places >= 0, encoded.places + tile * features, encoded.places)
