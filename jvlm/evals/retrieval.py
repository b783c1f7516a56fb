"""Image-text retrieval: recall at k, both ways, with several captions a picture or several pictures a caption."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int64

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals.blocks import ranks
from jvlm.evals.encoder import Encoder
from jvlm.evals.metrics import Score, beside_blind, recall, shuffled
from jvlm.evals.samples import Data, Samples, read_samples


class Pairs(NamedTuple):
    """Pictures and texts that belong together where their ids are equal."""

    samples: Samples
    texts: tuple[str, ...]
    image_ids: np.ndarray
    text_ids: np.ndarray


class Embedded(NamedTuple):
    """What a retrieval compared."""

    pairs: Pairs
    zimg: np.ndarray
    ztxt: np.ndarray


@dataclass(frozen=True)
class Retrieval:
    """Recall@k of the captions of each picture and of the pictures of each caption.

    `keys` restricts the data, `captions` takes the first so many of each sample (None: all). With `positives="key"` a
    picture's captions are its own (several positives, as in arXiv:1504.00325); with "label" every picture and every
    distinct caption of one label belong together.
    """

    data: Data
    keys: Sequence[str] | None = None
    captions: int | None = None
    positives: str = "key"
    ks: Sequence[int] = (1, 5, 10)

    def __post_init__(self) -> None:
        if self.positives not in ("key", "label"):
            raise ConfigError(f"retrieval positives {self.positives!r} is unknown; valid names: key, label")

    def __call__(self, encoder: Encoder) -> dict[str, Score]:
        return self.scores(self.embed(encoder), encoder.mesh)

    def embed(self, encoder: Encoder) -> Embedded:
        """The embeddings that `scores` compares, for a caller that shows examples too."""
        pairs = self.pairs()
        return Embedded(pairs, encoder.images(pairs.samples.pictures), encoder.texts(pairs.texts))

    def scores(self, embedded: Embedded, mesh: Mesh) -> dict[str, Score]:
        pairs, zimg, ztxt = embedded
        return retrieval_scores(zimg, ztxt, pairs.image_ids, pairs.text_ids, mesh, self.ks)

    def pairs(self) -> Pairs:
        """Pictures, texts and ids. UserError for a picture without a caption, which nothing could find."""
        samples = read_samples(self.data, self.keys)
        if not len(samples):
            raise UserError("retrieval: the data has no samples")
        given = [captions[: self.captions] for captions in samples.captions]
        for key, captions in zip(samples.keys, given):
            if not captions:
                raise UserError(f"retrieval: sample {key!r} has no caption")
        image_ids = np.arange(len(samples)) if self.positives == "key" else samples.labels
        # A dict keeps the order of first appearance and drops a caption that a label has already.
        texts = dict.fromkeys((int(i), text) for i, captions in zip(image_ids, given) for text in captions)
        words = tuple(text for _, text in texts)
        if repeated := len(words) - len(set(words)):
            _say_once(
                f"retrieval: {repeated} of {len(words)} captions stand at other pictures too, where they count as "
                "wrong answers; give such pictures a common label and positives='label'"
            )
        return Pairs(samples, words, image_ids, np.asarray([i for i, _ in texts], np.int64))


@functools.cache
def _say_once(message: str) -> None:
    """By the first process, and not at each evaluation again."""
    if jax.process_index() == 0:
        print(message, file=sys.stderr)


def retrieval_scores(
    zimg: Float32[np.ndarray, "n E"],
    ztxt: Float32[np.ndarray, "m E"],
    image_ids: Int64[np.ndarray, "n"],
    text_ids: Int64[np.ndarray, "m"],
    mesh: Mesh,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, Score]:
    """`image_to_text_r1, ...` and `text_to_image_r1, ...`; blind: the picture embeddings shuffled among the samples."""

    def both(zimg: np.ndarray) -> dict[str, Score]:
        to_text = ranks(zimg, ztxt, image_ids, text_ids, mesh)
        to_image = ranks(ztxt, zimg, text_ids, image_ids, mesh)
        return recalls(to_text, to_image, image_ids, text_ids, ks)

    return beside_blind(both(zimg), both(zimg[shuffled(len(zimg))]))


def recalls(
    to_text: np.ndarray, to_image: np.ndarray, image_ids: np.ndarray, text_ids: np.ndarray, ks: Sequence[int]
) -> dict[str, Score]:
    """Recall at each k from the ranks of both directions."""
    out = {}
    for name, found, ids, others in (
        ("image_to_text", to_text, image_ids, text_ids),
        ("text_to_image", to_image, text_ids, image_ids),
    ):
        known, counts = np.unique(others, return_counts=True)
        table = dict(zip(known.tolist(), counts.tolist()))
        positives = np.asarray([table.get(i, 0) for i in ids.tolist()])
        for k in ks:
            out[f"{name}_r{k}"] = recall(found, k, positives, len(others), groups=ids)
    return out
