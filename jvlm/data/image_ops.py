"""Pictures to arrays, equal to the bit with transformers' Pillow backend; limits are checked before
decoding."""

import functools
import io
import os
import warnings
from typing import Literal

import numpy as np
from etils import epath
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jvlm.core.errors import UserError
from jvlm.data.image_spec import ImageSpec

MAX_DECODED_BYTES = 2**28
"""Largest picture that is decoded, in bytes as RGB (89 million pixels): Pillow's own warning threshold."""

BROKEN = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, MemoryError, ArithmeticError)
"""What Pillow's decoders raise on broken files (`UnidentifiedImageError` is an OSError)."""

# The limit of this module is lower and raises; Pillow's warning about the same files would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Picture = bytes | str | os.PathLike | Image.Image | np.ndarray

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


class BadPicture(UserError):
    """A picture that cannot be used; `cause` is the counter it belongs to."""

    def __init__(self, message: str, cause: Literal["corrupt picture", "oversized picture"]):
        super().__init__(message)
        self.cause = cause

    def __reduce__(self):
        return type(self), (str(self), self.cause)


def open_picture(data: bytes, max_bytes: int = MAX_DECODED_BYTES, name: str = "picture") -> Image.Image:
    """The picture with its header read and nothing decoded.

    Raises BadPicture when the header is unreadable or promises more than `max_bytes` once decoded.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPicture(f"{name}: {error}", "oversized picture") from error
    except UnidentifiedImageError as error:  # whose text names an object in memory
        raise BadPicture(f"{name}: not a readable picture (its format is not known)", "corrupt picture") from error
    except BROKEN as error:
        raise BadPicture(f"{name}: not a readable picture ({error})", "corrupt picture") from error
    decoded = image.width * image.height * max(3, len(image.getbands()))
    if decoded > max_bytes:
        raise BadPicture(
            f"{name}: {image.width} x {image.height} pixels would take {decoded / 1e6:.0f} MB, "
            f"the limit is {max_bytes / 1e6:.0f} MB",
            "oversized picture",
        )
    return image


def _formats(data: bytes) -> list[str] | None:
    """What the first bytes say, so that Pillow asks one reader and not all in turn; None lets it ask."""
    if data.startswith(b"RIFF"):
        return ["WEBP"]
    known = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
    return next(([name] for magic, name in known.items() if data.startswith(magic)), None)


def load(image: Image.Image, name: str = "picture") -> Image.Image:
    """Decodes all of `image`; BadPicture when its data is broken or ends early."""
    try:
        image.load()
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        MemoryError,
    ) as error:
        raise BadPicture(f"{name}: broken picture data ({error})", "corrupt picture") from error
    return image


def read_picture(source: Picture, style: str = "transformers", max_bytes: int = MAX_DECODED_BYTES) -> Image.Image:
    """A decoded picture, oriented and converted as the library named by `style` does for the same input.

    transformers treats files and PIL pictures differently, and so does this. A file (or its bytes) is turned
    by its EXIF orientation and converted to RGB, which drops an alpha channel but lays a transparent colour
    on white (`image_utils.load_image`, then `convert_to_rgb`). A PIL picture is not turned, and transparency
    is laid on white (`image_transforms.convert_to_rgb`). Arrays are uint8 [H, W], [H, W, 1], [H, W, 3] or [H,
    W, 4], the last laid on white. open_clip keeps the mode until after the crop."""
    if isinstance(source, np.ndarray):
        return Image.fromarray(_array_rgb(source))
    if isinstance(source, Image.Image):
        image = load(source)
        return image if style == "open_clip" else on_white(image)
    data, name = (source, "picture") if isinstance(source, bytes) else (read_bytes(source), os.fspath(source))
    image = load(open_picture(data, max_bytes, name), name)
    if style == "open_clip":
        return image
    try:
        return on_white(to_rgb(ImageOps.exif_transpose(image)))
    except BROKEN as error:
        raise BadPicture(f"{name}: broken EXIF data ({error})", "corrupt picture") from error


def picture_size(data: bytes, name: str = "picture", max_bytes: int = MAX_DECODED_BYTES) -> tuple[int, int]:
    """(height, width) of a file's picture once turned by its EXIF orientation; nothing is decoded."""
    image = open_picture(data, max_bytes, name)
    # Pillow decodes all of a PNG to look for EXIF data behind the pixels; most have none anywhere.
    plain = image.format == "PNG" and b"eXIf" not in data and b"Raw profile type" not in data
    try:
        sideways = not plain and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except BROKEN as error:
        raise BadPicture(f"{name}: broken EXIF data ({error})", "corrupt picture") from error
    return (image.width, image.height) if sideways else (image.height, image.width)


def read_bytes(path: str | os.PathLike) -> bytes:
    """A file's content, local or `gs://`; UserError when it is not there."""
    try:
        return epath.Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{os.fspath(path)}: no such file") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB; transparency is dropped."""
    return image if image.mode == "RGB" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """`image` as RGB, transparency laid on white (transformers' `convert_to_rgb`)."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return to_rgb(image)
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _array_rgb(array: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    array = array[..., None] if array.ndim == 2 else array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise UserError(f"picture array of {array.dtype} {array.shape}: expected uint8 [H, W, 1, 3 or 4]")
    if array.shape[-1] == 4:
        alpha = array[..., 3:] / 255
        return np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else np.ascontiguousarray(array)


def resized_size(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """(height, width) after the resize of `spec`; the longer side is rounded down."""
    if spec.resize == "none":
        return height, width
    if spec.resize == "exact":
        return spec.target
    if spec.resize == "cover":
        rows, columns = spec.size
        if rows * width >= columns * height:
            return rows, max(columns, int(rows * width / height))
        return max(rows, int(columns * height / width)), columns
    short = spec.target[0]
    long = int(short * max(height, width) / min(height, width))
    return (long, short) if width <= height else (short, long)


def centre_crop(image: Image.Image, size: tuple[int, int], style: str = "transformers") -> Image.Image:
    """The middle `size` (height, width) of `image`, padded with zeros where the image is smaller."""
    if style == "open_clip":
        left, top = (round((have - want) / 2) for have, want in zip(image.size, size[::-1]))
        if left < 0 or top < 0:  # torchvision pads to the size first, then crops what is left over
            left, top = (
                -((want - have) // 2) if want > have else round((have - want) / 2)
                for have, want in zip(image.size, size[::-1])
            )
    else:
        # transformers pads ceil((want - have) / 2) in front, which is floor((have - want) / 2) below zero.
        left, top = ((have - want) // 2 for have, want in zip(image.size, size[::-1]))
    return image.crop((left, top, left + size[1], top + size[0]))


def told_sizes(size: tuple[int, int], spec: ImageSpec) -> tuple[int, ...]:
    """What SDXL is told of a picture of `size` (height, width) that `spec` fits (arXiv:2307.01952, section 2.2).

    The size, the corner (top, left) from which it is cropped once scaled, and (height, width) of what it becomes.
    """
    have = resized_size(*size, spec)
    corner = ((full - kept) // 2 if spec.crop else 0 for full, kept in zip(have, spec.size))
    return (*size, *corner, *spec.size)


def fit(image: Image.Image, spec: ImageSpec, corner: tuple[int, int] | None = None) -> Image.Image:
    """Resize and centre crop of `spec`, or the crop whose `corner` (top, left) is given; RGB of exactly `spec.size`."""
    height, width = resized_size(image.height, image.width, spec)
    if spec.resize != "none" and not (spec.style == "open_clip" and image.size == (width, height)):
        image = image.resize((width, height), RESAMPLING[spec.interpolation])
    if spec.crop and corner is not None:
        top, left = corner
        image = image.crop((left, top, left + spec.size[1], top + spec.size[0]))
    elif spec.crop:
        image = centre_crop(image, spec.size, spec.style)
    if image.size != spec.size[::-1]:
        raise UserError(f"picture of {image.height} x {image.width}: the model takes only {spec.size}")
    return to_rgb(image)


@functools.lru_cache(maxsize=64)
def _row(values: tuple[float, float, float], width: int) -> Float32[np.ndarray, "V"]:
    return np.tile(np.asarray(values, np.float32), width)


def normalize(pixels: UInt8[np.ndarray, "H W 3"], spec: ImageSpec) -> Float32[np.ndarray, "H W 3"]:
    """Rescaled and normalized pixels, equal to the bit with both libraries.

    transformers multiplies by `rescale` in float64 and rounds to float32, torchvision divides by 255 in float32; for
    1/255 the two agree on all 256 values. Whole rows at a time are ten times as fast as broadcasting over channels.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    if spec.rescale == 1 / 255:
        out = np.divide(rows, np.float32(255), dtype=np.float32)
    else:
        out = (rows * np.float64(spec.rescale)).astype(np.float32)
    out -= _row(spec.mean, width)
    out /= _row(spec.std, width)
    return out.reshape(pixels.shape)


def preprocess(source: Picture, spec: ImageSpec) -> Float32[np.ndarray, "H W 3"]:
    """One picture as the model takes it in evaluation: decoded in full, fitted, normalized."""
    return normalize(np.asarray(fit(read_picture(source, spec.style), spec)), spec)
