"""How many tokens a picture takes in a model's text, and the arrays it becomes: part of a family's preprocessing."""

import functools
import os
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from jvlm.core.errors import UserError
from jvlm.data import image_ops
from jvlm.data.image_spec import ImageSpec
from jvlm.data.sources import BadSample

NEWLINE = -1
"""In `places`: the learned embedding that ends a row of patches, rather than a feature of a tile."""


@runtime_checkable
class Pictures(Protocol):
    """From a picture of `height` x `width` pixels to tiles of `size`, each of so many `features`, and to tokens."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def features(self) -> int: ...

    def count(self, height: int, width: int) -> int:
        """Tokens that stand for the picture."""
        ...

    def tiles(self, height: int, width: int) -> int:
        """Arrays of `size` that it becomes."""
        ...

    def places(self, height: int, width: int) -> Int32[np.ndarray, "n"]:
        """Which feature each of its tokens takes, counted through its tiles (tile times features a tile, plus the
        feature's number), or NEWLINE."""
        ...

    def arrays(self, picture: image_ops.Picture) -> Float32[np.ndarray, "k H W 3"]:
        """The tiles; BadPicture when the picture cannot be read."""
        ...


@dataclass(frozen=True)
class FixedPictures:
    """One tile of `spec.size` for every picture and `tokens` tokens: projectors, Q-Formers, resamplers.

    With `tokens=1` the one token marks the place of a picture that enters elsewhere (gated cross-attention).
    """

    spec: ImageSpec
    tokens: int

    @property
    def size(self) -> tuple[int, int]:
        return self.spec.size

    @property
    def features(self) -> int:
        return self.tokens

    def count(self, height: int, width: int) -> int:
        """`tokens`, whatever the picture."""
        return self.tokens

    def tiles(self, height: int, width: int) -> int:
        """One."""
        return 1

    def places(self, height: int, width: int) -> Int32[np.ndarray, "n"]:
        """The tile's features in order."""
        return np.arange(self.tokens, dtype=np.int32)

    def arrays(self, picture: image_ops.Picture) -> Float32[np.ndarray, "1 H W 3"]:
        """The picture as `spec` makes it."""
        return image_ops.preprocess(picture, self.spec)[None]


def picture_size(picture: image_ops.Picture, where: str) -> tuple[int, int]:
    """(height, width) from the header alone, turned as its EXIF says; BadSample when there is none to read."""
    try:
        if isinstance(picture, (str, os.PathLike)):
            return _file_size(os.fspath(picture))
        if isinstance(picture, bytes):
            return image_ops.picture_size(picture)
        raise UserError(f"a {type(picture).__name__}; conversations hold picture files")
    except image_ops.BadPicture as error:
        raise BadSample(f"{where}: {error}", error.cause) from error
    except UserError as error:
        raise BadSample(f"{where}: {error}", "missing picture") from error


@functools.lru_cache(maxsize=4096)
def _file_size(path: str) -> tuple[int, int]:
    # Neighbouring questions are often about one picture.
    return image_ops.picture_size(image_ops.read_bytes(path), path)
