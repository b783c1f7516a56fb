"""Pictures and texts to what a model takes: part of the model, saved with it and compared before
evaluation."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32

from jvlm.core.errors import ConfigError, UserError, nearest
from jvlm.data import image_ops, learned_words
from jvlm.data.image_spec import ImageSpec
from jvlm.data.tokenizers import Tokenizer, tokenizer_from_dict, tokenizer_to_dict

__all__ = ["ImageSpec", "Processor", "TextSpec"]

BRIDGE, BRIDGE_FOLDER = "bridge_tokenizer", "qformer_tokenizer"
"""What the tokenizer of a bridge is called among a processor's values, and the folder of its files."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How texts fill `length` tokens: padded with `pad_id` on `padding_side`, cut so that the end tokens
    stay.

    `clip`: text longer than `length` is cut; otherwise it is an error. `context` learned vectors (CoOp) stand after the
    start token, as the ids -1, -2, ...; with `classes` each of these texts has vectors of its own. `words` name learned
    vectors that stand wherever a text has the word (textual inversion), as the same ids.
    """

    length: int
    pad_id: int
    padding_side: Literal["right", "left"] = "right"
    clip: bool = True
    context: int = 0
    classes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Processor:
    """A model's preprocessing: `image` and `text` say how, `tokenizer` holds the vocabulary.

    `bridge_tokenizer` is that of a bridge which reads the instruction in another vocabulary (InstructBLIP).
    """

    image: ImageSpec | None = None
    text: TextSpec | None = None
    tokenizer: Tokenizer | None = None
    bridge_tokenizer: Tokenizer | None = None

    def images(self, images: Sequence[image_ops.Picture]) -> Float32[np.ndarray, "n H W 3"]:
        """Pictures (file bytes, paths, PIL pictures or uint8 arrays) as the model takes them.

        They are decoded in full, equal to transformers' Pillow backend. UserError names what cannot be read.
        """
        if self.image is None:
            raise UserError("this model takes no pictures: its directory has no image preprocessing")
        out = np.empty((len(images), *self.image.size, 3), np.float32)
        for row, image in zip(out, images):
            row[:] = image_ops.preprocess(image, self.image)
        return out

    def texts(self, texts: Sequence[str]) -> Int32[np.ndarray, "m T"]:
        """Token ids, special tokens included, each row `text.length` long."""
        if self.text is None or self.tokenizer is None:
            raise UserError("this model takes no text: its directory has no tokenizer")
        out = np.full((len(texts), self.text.length), self.text.pad_id, np.int32)
        for row, text in zip(out, texts):
            fill(row, self.encode(text), self.text, self.tokenizer.suffix)
        return out

    def encode(self, text: str) -> list[int]:
        """Token ids of a text with its special tokens and learned context, neither cut nor padded."""
        if self.text is None or self.tokenizer is None:
            raise UserError("this model takes no text: its directory has no tokenizer")
        if self.text.words:
            return learned_words.encode(text, self.tokenizer, self.text.words)
        ids = list(self.tokenizer.encode(text))
        size, classes = self.text.context, self.text.classes
        if not size:
            return ids
        if classes and text and text not in classes:
            raise UserError(f"the model learned a context for each of its classes only; {nearest(text, classes)}")
        first = 1 + size * (classes.index(text) if text in classes else 0)
        at = len(self.tokenizer.prefix)
        return [*ids[:at], *(-first - k for k in range(size)), *ids[at:]]

    def fingerprint(self) -> str:
        """sha256 over every field and the tokenizer's files: equal means the same arrays for the same
        input."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the tokenizer's files enter by hash and are kept beside it
        (`tokenizer.to_files()`)."""
        values = {
            "image": self.image and _plain(dataclasses.asdict(self.image)),
            # Without learned words as it was before there were any, so that what was saved has the same fingerprint.
            "text": self.text and {k: v for k, v in dataclasses.asdict(self.text).items() if k != "words" or v},
            "tokenizer": self.tokenizer and tokenizer_to_dict(self.tokenizer),
        }
        return values | ({BRIDGE: tokenizer_to_dict(self.bridge_tokenizer)} if self.bridge_tokenizer else {})

    def files(self) -> dict[str, bytes]:
        """The tokenizers' files by their path in a folder; those of the bridge's lie in one of their own."""
        own = self.tokenizer.to_files() if self.tokenizer else {}
        other = self.bridge_tokenizer.to_files() if self.bridge_tokenizer else {}
        return {**own, **{f"{BRIDGE_FOLDER}/{name}": data for name, data in other.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, bytes] | None = None) -> "Processor":
        """The inverse of `to_dict`; `files` are the tokenizer's, by name (not needed for the bundled
        vocabulary).

        ConfigError for an unknown field; UserError for a tokenizer file that is missing or has changed.
        """
        image, text, tokenizer, bridge = (values.get(k) for k in ("image", "text", "tokenizer", BRIDGE))
        files = files or {}
        return cls(
            image=_build(ImageSpec, image) if image else None,
            text=_build(TextSpec, text) if text else None,
            tokenizer=tokenizer_from_dict(tokenizer, files) if tokenizer else None,
            bridge_tokenizer=tokenizer_from_dict(bridge, bridge_files(files)) if bridge else None,
        )


def bridge_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of files by their path, those of the bridge's tokenizer by name."""
    start = f"{BRIDGE_FOLDER}/"
    return {name.removeprefix(start): data for name, data in files.items() if name.startswith(start)}


def fill(row: Int32[np.ndarray, "T"], ids: Sequence[int], spec: TextSpec, suffix: Sequence[int]) -> bool:
    """Writes `ids` into `row`, which holds padding; returns whether they were cut to fit (`suffix` is
    kept)."""
    cut = len(ids) > spec.length
    if cut and not spec.clip:
        raise UserError(f"text of {len(ids)} tokens: the model takes {spec.length}; shorten it")
    if cut:
        ids = [*ids[: spec.length - len(suffix)], *suffix]
    if spec.padding_side == "left":
        row[spec.length - len(ids) :] = ids
    else:
        row[: len(ids)] = ids
    return cut


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    names = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in names:
            raise ConfigError(f"{cls.__name__} has no field {key!r}: {nearest(key, names)}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
