"""How a model wants its pictures, as plain values: part of the model, saved and hashed with it."""

import dataclasses
from typing import Any, Literal

from jvlm.core.errors import ConfigError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """From a picture file to the array a model takes.

    In order: resize, centre crop to `size` (padding with zeros where the picture is smaller), multiply by
    `rescale`, subtract `mean`, divide by `std`.

    `resize`: "shortest" scales the shorter side to `resize_to` and keeps the aspect; "exact" squashes to
    `resize_to` (height, width); "cover" scales to the smallest picture that `size` lies in; "none" leaves the
    picture. `resize_to` defaults to the shorter side of `size`, or to `size`.

    `style` settles what the two reference libraries do differently with the same numbers. "transformers" (its
    Pillow backend): EXIF orientation applied to files, RGB before resizing, odd margins cropped rounding
    down. "open_clip": no EXIF orientation, RGB after cropping, odd margins rounded half to even."""

    size: tuple[int, int]
    resize: Literal["shortest", "exact", "cover", "none"] = "exact"
    resize_to: int | tuple[int, int] | None = None
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    crop: bool = False
    rescale: float = 1 / 255
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    style: Literal["transformers", "open_clip"] = "transformers"

    def __post_init__(self):
        if self.resize in ("shortest", "cover") and not self.crop:
            raise ConfigError(f'ImageSpec: resize="{self.resize}" gives pictures of unequal size; set crop=True')
        if self.resize == "shortest" and isinstance(self.resize_to, tuple):
            raise ConfigError(f'ImageSpec: resize="shortest" takes one side, not resize_to={self.resize_to}')
        if self.resize == "exact" and not self.crop and self.target != self.size:
            raise ConfigError(f"ImageSpec: resized to {self.target}, the model takes {self.size}; set crop=True")

    @property
    def target(self) -> tuple[int, int]:
        """(height, width) of an exact resize; (short, short) of one by the shorter side."""
        if isinstance(self.resize_to, int):
            return self.resize_to, self.resize_to
        if self.resize_to is not None:
            return self.resize_to
        return (min(self.size), min(self.size)) if self.resize == "shortest" else self.size

    def covering(self, size: tuple[int, int]) -> "ImageSpec":
        """The same with pictures of `size` (height, width) cut out of their middle."""
        return dataclasses.replace(self, size=size, resize="cover", resize_to=None, crop=True)

    @classmethod
    def clip(cls, size: int | tuple[int, int] = 224, **changes: Any) -> "ImageSpec":
        """CLIP's published preprocessing: shorter side to `size`, bicubic, centre crop."""
        defaults = {"resize": "shortest", "crop": True, "mean": CLIP_MEAN, "std": CLIP_STD}
        return cls(size=_pair(size), **(defaults | changes))

    @classmethod
    def siglip(cls, size: int | tuple[int, int] = 224, **changes: Any) -> "ImageSpec":
        """SigLIP's published preprocessing: squashed to `size`, bicubic, to -1..1."""
        return cls(size=_pair(size), **changes)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
