"""Shapes for pictures of every aspect ratio, of about one area each, and which picture has which."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16, Int32

from jvlm.core import build
from jvlm.core.errors import ConfigError

Size = tuple[int, int]
"""(height, width)."""

VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2307.01952, appendix I, whose table lacks the turned 704 x 1344
    "sdxl": dict(side=1024, without=((1344, 704),)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buckets:
    """Every height and width, multiples of `step`, with an area above `least` of side^2 and not above side^2.

    None is longer than `ratio` times its other side; of several with one aspect ratio the largest counts. `without`
    leaves out some. The defaults are the rule behind SDXL's table (Podell et al., arXiv:2307.01952, section 2.3 and
    appendix I). ConfigError for values that give no list.
    """

    side: int
    step: int = 64
    ratio: float | int = 4.0
    least: float | int = 0.9
    without: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(x, int) and x > 0 for x in (self.side, self.step)) or self.side % self.step:
            raise ConfigError(f"buckets.side = {self.side} is no multiple of buckets.step = {self.step}")
        if self.ratio < 1:
            raise ConfigError(f"buckets.ratio = {self.ratio}; give 1 (squares alone) or more")
        if not 0 <= self.least < 1:
            raise ConfigError(f"buckets.least = {self.least}; give a share of the area, 0 or more and below 1")
        for size in self.without:
            if tuple(size) not in self._all():
                raise ConfigError(f"buckets.without has {list(size)}, which is none of the sizes (height, width)")
        if not self.sizes():
            raise ConfigError("buckets.without leaves no size")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Buckets":
        """From plain values: those of a `variant` of `VARIANTS`, if one is named, and what is given beside it."""
        fields = dict(fields)
        if name := fields.pop("variant", None):
            fields = build.lookup(VARIANTS, name, "list of buckets") | fields
        return build.call(cls, fields, "buckets")

    def check(self, multiple: int) -> "Buckets":
        """Itself; ConfigError where a model's sides are multiples of `multiple`, and these are not."""
        if self.step % multiple:
            raise ConfigError(
                f"buckets.step = {self.step} is no multiple of {multiple}, by which the model's autoencoder and UNet "
                "divide the sides of a picture"
            )
        return self

    def sizes(self) -> tuple[Size, ...]:
        """The list, from the widest to the tallest."""
        left_out = {tuple(size) for size in self.without}
        return tuple(size for size in self._all() if size not in left_out)

    def _all(self) -> list[Size]:
        area = self.side**2
        found: dict[Size, Size] = {}  # by the shape in lowest terms; the areas of one shape rise
        for height in range(self.step, int(self.side * self.ratio**0.5) + 1, self.step):
            narrowest = int(self.least * area / height) // self.step * self.step
            for width in range(max(self.step, narrowest), area // height + 1, self.step):
                shape = (height // math.gcd(height, width), width // math.gcd(height, width))
                if self.least * area < height * width and max(height, width) <= self.ratio * min(height, width):
                    found[shape] = (height, width)
        return sorted(found.values(), key=lambda size: (size[0] / size[1], size))


def nearest(sizes: Sequence[Size], measured: Int32[np.ndarray, "n 2"]) -> Int16[np.ndarray, "n"]:
    """Number of the size whose aspect ratio is nearest in the logarithm, of each picture; -1 where it is [0, 0]."""
    ratios = np.log([height / width for height, width in sizes])
    order = np.argsort(ratios, kind="stable")
    between = (ratios[order][1:] + ratios[order][:-1]) / 2
    known = (measured > 0).all(axis=1)
    own = np.log(np.where(known, measured[:, 0], 1) / np.where(known, measured[:, 1], 1))
    return np.where(known, order[np.searchsorted(between, own)], -1).astype(np.int16)


def equal(sizes: Sequence[Size], measured: Int32[np.ndarray, "n 2"]) -> Int16[np.ndarray, "n"]:
    """Number of the size that each array has, -1 for one of none of them."""
    out = np.full(len(measured), -1, np.int16)
    for number, size in enumerate(sizes):
        out[(measured == size).all(axis=1)] = number
    return out
