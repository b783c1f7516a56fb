"""One batch by its number: reads, decodes, tokenizes, and turns what is bad into placeholders. Nothing is raised."""

import dataclasses
import io
from typing import Any, NamedTuple

import numpy as np

from jvlm.data import image_ops
from jvlm.data.augment import Augment, augmented
from jvlm.data.processor import Processor, fill
from jvlm.data.shuffle import Order
from jvlm.data.sources import BadSample, Sample, Source

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""What reads the header of a `.npy` file of each version."""


class Bad(NamedTuple):
    """Why the sample at `index` became a placeholder."""

    index: int
    cause: str
    message: str


@dataclasses.dataclass
class BatchMaker:
    """Batch number -> arrays for this process; picklable, for worker processes.

    Batch `j` covers the positions from `base + j * batch_size` on, of which this process makes `count` from
    `offset` on. Positions from `stop` on are placeholders with index -1 (the last, partial batch of an evaluation).
    `captions`: how many captions of each sample, 1 gives tokens [B, T], more [B, captions, T] and `caption_weight`.
    `augment=None` is the evaluation's preprocessing; without `seed` the first caption is taken, with it a random one.
    With `moments` the samples hold arrays of this shape, as an autoencoder made them, instead of pictures. With
    `sizes` a batch also says what became of each picture (`image_ops.told_sizes`).
    """

    source: Source
    processor: Processor
    order: Order
    batch_size: int
    offset: int
    count: int
    base: int = 0
    stop: int | None = None
    seed: int | None = None
    augment: Augment | None = None
    label: bool = False
    captions: int = 1
    max_bytes: int = image_ops.MAX_DECODED_BYTES
    moments: tuple[int, int, int] | None = None
    sizes: bool = False

    def __call__(self, number: int) -> dict[str, Any]:
        batch = self.empty()
        bad: list[Bad] = []
        start = self.base + number * self.batch_size + self.offset
        for row in range(self.count):
            if self.stop is not None and start + row >= self.stop:
                continue
            epoch, index = self.order(start + row)
            batch["index"][row] = index
            try:
                sample = self.source[index]
                self._fill(batch, row, sample, epoch, index)
                batch["weight"][row] = sample.weight
            except (BadSample, image_ops.BadPicture) as error:
                bad.append(Bad(index, error.cause, str(error)))
            except OSError as error:
                bad.append(Bad(index, "read error", f"sample {index}: {error}"))
            except Exception as error:  # an exception that leaves a grain map ends the iterator
                bad.append(Bad(index, "unexpected error", f"sample {index}: {type(error).__name__}: {error}"))
            if batch["weight"][row] == 0:
                self._clear(batch, row)
        return {**batch, "bad": bad}

    def empty(self) -> dict[str, np.ndarray]:
        """A batch of placeholders: valid arrays of weight 0."""
        image, text = self.processor.image, self.processor.text
        batch: dict[str, np.ndarray] = {
            "weight": np.zeros(self.count, np.float32),
            "index": np.full(self.count, -1, np.int64),
        }
        if self.moments:
            batch["moments"] = np.zeros((self.count, *self.moments), np.float32)
        elif image:
            batch["image"] = np.zeros((self.count, *image.size, 3), np.float32)
        if self.sizes:
            batch["sizes"] = np.zeros((self.count, 6), np.float32)
        if text:
            blank = self.processor.texts([""])[0]
            shape = (self.count,) if self.captions == 1 else (self.count, self.captions)
            batch["tokens"] = np.broadcast_to(blank, (*shape, text.length)).copy()
            if self.captions > 1:
                batch["caption_weight"] = np.zeros(shape, np.float32)
        if self.label:
            batch["label"] = np.full(self.count, -1, np.int32)
        return batch

    def _fill(self, batch: dict[str, np.ndarray], row: int, sample: Sample, epoch: int, index: int) -> None:
        rng = np.random.default_rng((self.seed or 0, epoch, index))
        if "tokens" in batch:
            captions = [c for c in sample.captions if c.strip()]
            if not captions:
                raise BadSample(f"{sample.key or index}: no caption", "empty caption")
            if self.captions > 1:
                for i, caption in enumerate(captions[: self.captions]):
                    self._tokens(batch["tokens"][row, i], caption)
                    batch["caption_weight"][row, i] = 1.0
            else:
                pick = int(rng.integers(len(captions))) if self.seed is not None else 0
                self._tokens(batch["tokens"][row], captions[pick])
        if self.label:
            if sample.label is None:
                raise BadSample(f"{sample.key or index}: no label", "missing label")
            batch["label"][row] = sample.label
        spec = self.processor.image
        if self.moments:
            batch["moments"][row] = stored_moments(sample, self.moments)
            if self.sizes:
                batch["sizes"][row] = stored_sizes(sample)
        elif spec:
            try:
                if self.augment is None:
                    picture = image_ops.read_picture(sample.image, spec.style, self.max_bytes)
                    pixels = image_ops.normalize(np.asarray(image_ops.fit(picture, spec)), spec)
                    sizes = image_ops.told_sizes((picture.height, picture.width), spec)
                else:
                    pixels, sizes = augmented(sample.image, spec, self.augment, rng, self.max_bytes)
                batch["image"][row] = pixels
                if self.sizes:
                    batch["sizes"][row] = sizes
            except image_ops.BadPicture as error:
                raise BadSample(f"{sample.key or index}: {error}", error.cause) from error

    def _tokens(self, row: np.ndarray, caption: str) -> None:
        processor = self.processor
        if processor.text and processor.tokenizer:
            row[:] = processor.text.pad_id
            fill(row, processor.encode(caption), processor.text, processor.tokenizer.suffix)

    def _clear(self, batch: dict[str, np.ndarray], row: int) -> None:
        """Takes back what a bad sample wrote before it failed."""
        one = dataclasses.replace(self, count=1).empty()
        for key, values in one.items():
            if key != "index":
                batch[key][row] = values[0]


def stored_moments(sample: Sample, shape: tuple[int, int, int]) -> np.ndarray:
    """The array in a sample's `.npy` member. BadSample where there is none of `shape`."""
    try:
        found = np.load(io.BytesIO(sample.image), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadSample(f"{sample.key}: no array of latents ({error})", "broken latents") from error
    if found.shape != shape:
        raise BadSample(f"{sample.key}: latents {list(found.shape)}, the model's are {list(shape)}", "other latents")
    return found


def stored_shape(data: bytes) -> tuple[int, ...]:
    """The shape of the array in a `.npy` file, from its beginning. BadSample where there is none."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        return HEADERS[version](file)[0]
    except (ValueError, KeyError) as error:
        raise BadSample(f"no array of latents ({error})", "broken latents") from error


def stored_sizes(sample: Sample) -> list[float]:
    """The six numbers that `jvlm data latents` notes of each picture. BadSample where they are not there."""
    found = sample.extra.get("sizes")
    if not isinstance(found, list) or len(found) != 6 or not all(isinstance(x, int | float) for x in found):
        raise BadSample(f"{sample.key}: no 'sizes' of its picture; encode the pictures again", "no sizes")
    return found
