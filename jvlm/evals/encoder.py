"""Pictures and texts to embeddings: batches of one static shape over a mesh, decoded while the last one computes."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32

from jvlm.core.errors import UserError
from jvlm.core.sharding import PRESETS, Rules, batch_shards, make_mesh, put_batch, use
from jvlm.core.types import Params, Predict
from jvlm.data.image_ops import Picture
from jvlm.data.processor import Processor
from jvlm.evals.placement import local_rows, place
from jvlm.evals.samples import Pictures
from jvlm.models.autoencoder import Autoencoder
from jvlm.models.dual_encoder import DualEncoder, normalize
from jvlm.models.vq import Quantizing
from jvlm.tasks.autoencoding import reconstructing
from jvlm.tasks.contrastive import Contrastive

# Batches whose results have not been read back: enough to keep a device busy, few enough to keep memory flat.
IN_FLIGHT = 2
# Texts whose padding may be cut are padded to a multiple of this, so that few programs are compiled.
TEXT_BUCKET = 8


class Encoder:
    """Embeds any number of pictures and texts, exactly that many, in the order given.

    `predict_fns` has `image` and/or `text`, each `(variables, array [B, ...]) -> [B, E]` (see `Task.predict_fns`).
    Batches are cut over the batch axes of `mesh` (None: the first device); `variables` already placed on that mesh stay
    as they are sharded, others are replicated. The last batch is filled with copies of its first row and cut.
    `cut_padding` says that what stands right of a text's end changes nothing (see `ends_by_itself`), so texts are
    sorted by length and padded to the longest of their batch only. On several hosts each decodes its own rows, and all
    get the whole result.
    """

    def __init__(
        self,
        predict_fns: Mapping[str, Predict],
        variables: Params,
        processor: Processor,
        mesh: Mesh | None = None,
        batch_size: int = 64,
        *,
        rules: Rules = PRESETS["dp"],
        cut_padding: bool = False,
        workers: int | None = None,
    ) -> None:
        self.processor = processor
        self.mesh = mesh if mesh is not None else make_mesh({"data": 1}, jax.devices()[:1])
        self._rules = rules
        self._batch_size = batch_size
        self._cut_padding = cut_padding
        self._workers = workers or min(16, os.cpu_count() or 1)
        self._variables = place(variables, self.mesh)
        whole = NamedSharding(self.mesh, PartitionSpec())
        self._fns: dict[str, Predict] = {name: jax.jit(fn, out_shardings=whole) for name, fn in predict_fns.items()}

    @classmethod
    def for_model(cls, model: Any, variables: Params, processor: Processor, **options: Any) -> "Encoder":
        """The encoder of a dual encoder, or of an image tower alone (its pooled output, normalized)."""
        return cls(predict_fns(model), variables, processor, cut_padding=ends_by_itself(model), **options)

    def images(self, pictures: Sequence[Picture], failures: dict[int, str] | None = None) -> Float32[np.ndarray, "n E"]:
        """Unit embeddings of file bytes, paths, PIL pictures or uint8 arrays.

        UserError names what cannot be read; with `failures` that is noted there by number instead, and its row is NaN.
        """
        return self._images("image", pictures, failures)

    def _images(self, name: str, pictures: Sequence[Picture], failures: dict[int, str] | None) -> np.ndarray:
        def row(at: int) -> np.ndarray:
            picture = pictures[at]
            try:
                return self.processor.images([picture])[0]
            except UserError as error:
                if failures is not None and self.processor.image is not None:
                    failures[at] = str(error)
                    return np.full((*self.processor.image.size, 3), np.nan, np.float32)
                if not isinstance(picture, bytes):
                    raise  # a path is in the message already
                key = pictures.keys[at] if isinstance(pictures, Pictures) else f"number {at}"
                raise UserError(f"{key}: {error}") from error

        return self._encode(name, len(pictures), row)

    def reconstructions(self, pictures: Sequence[Picture]) -> tuple[np.ndarray, np.ndarray]:
        """Pictures [n, H, W, 3] as the model takes them, and as an autoencoder gives them back."""
        return self.processor.images(pictures), self._images("reconstruction", pictures, None)

    def texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "m E"]:
        """Unit embeddings of texts."""
        tokens = self.processor.texts(texts)
        spec = self.processor.text
        if not (self._cut_padding and spec is not None and spec.padding_side == "right"):
            return self._encode("text", len(texts), lambda at: tokens[at])
        # Texts of like length share a batch, which is then no longer than its longest.
        order = np.argsort((tokens != spec.pad_id).sum(axis=1), kind="stable")
        tokens, size = tokens[order], self._size(len(texts))
        lengths = [used_length(tokens[at : at + size], spec.pad_id) for at in range(0, len(tokens), size)]
        out = self._encode("text", len(texts), lambda at: tokens[at, : lengths[at // size]])
        return out[np.argsort(order)]

    def _encode(self, name: str, count: int, row: Callable[[int], np.ndarray]) -> np.ndarray:
        if name not in self._fns:
            raise UserError(f"this model has no {name} tower; choose one that embeds {name}s")
        size = self._size(count)
        rows = local_rows(self.mesh, size)
        waiting: deque[tuple[jax.Array, int]] = deque()
        out: list[np.ndarray] = []
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="jvlm-decode")
        try:
            for start, batch in batches(pool, count, size, rows, row):
                with use(self.mesh, self._rules):
                    array = put_batch({"x": batch}, self.mesh)["x"]
                    waiting.append((self._fns[name](self._variables, array), min(size, count - start)))
                if len(waiting) >= IN_FLIGHT:
                    out.append(read(*waiting.popleft()))
        finally:
            pool.shutdown(cancel_futures=True)  # after a bad picture the rest need not be decoded
        out += [read(*item) for item in waiting]
        return np.concatenate(out) if out else np.zeros((0, self._width(name)), np.float32)

    def _size(self, count: int) -> int:
        """Rows of a batch: `batch_size`, or the next power of two when there is less, over whole shards."""
        size = min(self._batch_size, 1 << max(0, count - 1).bit_length())
        shards = batch_shards(self.mesh)
        return -(-size // shards) * shards

    def _width(self, name: str) -> int:
        """E, without computing anything."""
        if name != "text":
            assert self.processor.image is not None, "a model with an image tower has image preprocessing"
            like = jax.ShapeDtypeStruct((1, *self.processor.image.size, 3), np.float32)
        else:
            assert self.processor.text is not None, "a model with a text tower has text preprocessing"
            like = jax.ShapeDtypeStruct((1, self.processor.text.length), np.int32)
        return jax.eval_shape(self._fns[name], self._variables, like).shape[-1]


def batches(
    pool: ThreadPoolExecutor, count: int, size: int, rows: Sequence[int], row: Callable[[int], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """(first sample, this host's `rows` of the batch) of every batch; the next is decoded while one is in use."""
    ahead: deque[tuple[int, list[Future[np.ndarray]]]] = deque()
    for start in range(0, count + size, size):
        if start < count:
            # A row past the end repeats the batch's first sample: a valid input whose result is dropped.
            wanted = [start + r if start + r < count else start for r in rows]
            tasks = {at: pool.submit(row, at) for at in dict.fromkeys(wanted)}
            ahead.append((start, [tasks[at] for at in wanted]))
        if len(ahead) > 1 or (ahead and start >= count):
            first, ready = ahead.popleft()
            yield first, np.stack([task.result() for task in ready])


def read(embeddings: jax.Array, count: int) -> np.ndarray:
    """The first `count` rows on the host."""
    return np.asarray(embeddings, np.float32)[:count]


def used_length(tokens: np.ndarray, pad_id: int) -> int:
    """Columns that hold all texts and, where any is padded, one padding token each; a multiple of `TEXT_BUCKET`.

    The padding token is kept because in CLIP's transformers directories it is the end token too.
    """
    used = np.flatnonzero((tokens != pad_id).any(axis=0))
    length = (int(used[-1]) + 2) if len(used) else 1
    return min(tokens.shape[1], -(-length // TEXT_BUCKET) * TEXT_BUCKET)


def predict_fns(model: Any) -> dict[str, Predict]:
    """What embeds with `model`, by the name of the side."""
    if isinstance(model, DualEncoder):
        return Contrastive(model).predict_fns()
    if isinstance(model, Autoencoder | Quantizing):
        return reconstructing(model)
    if not hasattr(model, "image_size"):
        raise UserError(f"{type(model).__name__} has neither picture nor text embeddings; give a dual encoder")

    def image(variables: Params, image: jax.Array) -> jax.Array:
        pooled = model.apply(variables, image=image).pooled
        if pooled is None:
            raise UserError("this image tower pools nothing; give a model with pooled embeddings")
        return normalize(pooled)

    return {"image": image}


def ends_by_itself(model: Any) -> bool:
    """Whether a text's embedding cannot depend on what follows its end token: causal, read at the end token."""
    tower = getattr(model, "text_tower", None)
    return bool(getattr(tower, "causal", False)) and getattr(tower, "pool", None) in ("eos", "highest")
