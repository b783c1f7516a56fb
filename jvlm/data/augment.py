"""Random changes to training pictures; every draw comes from the generator that is passed in.

Random resized crop: Szegedy et al., Going Deeper with Convolutions (2015), section 6. Decoding may shrink JPEG files
on the way (`draft`) and may use opencv (the `fast` extra): both change pixels slightly, so neither is used elsewhere.
"""

import dataclasses
import functools
import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from jvlm.core.errors import UserError
from jvlm.data import image_ops
from jvlm.data.image_spec import ImageSpec

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation."""

YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""RGB to luma and two chroma axes (NTSC): hue is an angle in their plane, saturation a factor on it."""
FROM_YIQ = np.linalg.inv(YIQ)


Number = float | int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """What may happen to a training picture. The defaults change nothing but how JPEG files are decoded.

    `crop_scale`: fractions of the area that a random crop covers, its aspect within `crop_ratio`; without it the
    picture is fitted as in evaluation, and what does not fit is cut off evenly or, with `corner` random, anyhow.
    `flip`: probability of a mirror image. `zoom`: factors; `shift`: fraction of the side; `rotate`: degrees either way;
    uncovered corners take `background`. `hue`: degrees either way; `saturation`: strongest relative change; `grey`:
    probability of a grey picture.
    """

    crop_scale: tuple[Number, Number] | None = None
    crop_ratio: tuple[Number, Number] = (3 / 4, 4 / 3)
    corner: Literal["centre", "random"] = "centre"
    flip: Number = 0.0
    zoom: tuple[Number, Number] = (1.0, 1.0)
    shift: Number = 0.0
    rotate: Number = 0.0
    hue: Number = 0.0
    saturation: Number = 0.0
    grey: Number = 0.0
    background: tuple[int, int, int] = (255, 255, 255)
    draft: bool = True
    decoder: Literal["pillow", "opencv"] = "pillow"


UNCHANGED = Augment()


class Augmented(NamedTuple):
    """`pixels`, normalized, and what SDXL is told of them: see `image_ops.told_sizes`."""

    pixels: Float32[np.ndarray, "H W 3"]
    sizes: tuple[int, ...]


def augmented(
    source: bytes,
    spec: ImageSpec,
    augment: Augment,
    rng: np.random.Generator,
    max_bytes: int = image_ops.MAX_DECODED_BYTES,
) -> Augmented:
    """One training picture of `spec.size`. Raises BadPicture for what cannot be decoded."""
    image = image_ops.open_picture(source, max_bytes)
    turn = orientation(image)
    width, height = image.size
    size = (height, width) if turn in (5, 6, 7, 8) else (width, height)  # (width, height) once upright
    box = random_box(size, augment, rng) if augment.crop_scale else (0.0, 0.0, *map(float, size))
    target = spec.size if augment.crop_scale else image_ops.resized_size(size[1], size[0], spec)
    shrink = max(target[0] / (box[3] - box[1]), target[1] / (box[2] - box[0]))
    upright = decode(image, source, turn, shrink, augment)
    if augment.crop_scale:
        x, y = upright.width / size[0], upright.height / size[1]
        right, bottom = min(box[2] * x, upright.width), min(box[3] * y, upright.height)
        out = upright.resize(
            (spec.size[1], spec.size[0]),
            image_ops.RESAMPLING[spec.interpolation],
            box=(box[0] * x, box[1] * y, right, bottom),
        )
        scale = spec.size[0] / (box[3] - box[1]), spec.size[1] / (box[2] - box[0])
        full = round(size[1] * scale[0]), round(size[0] * scale[1])
        corner = round(box[1] * scale[0]), round(box[0] * scale[1])
    else:
        full = image_ops.resized_size(upright.height, upright.width, spec)
        room = tuple(max(0, have - kept) if spec.crop else 0 for have, kept in zip(full, spec.size))
        if augment.corner == "random":
            corner = int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
            out = image_ops.fit(upright, spec, corner)
        else:
            corner = room[0] // 2, room[1] // 2
            out = image_ops.fit(upright, spec)
    mirror = augment.flip > 0 and rng.random() < augment.flip
    if mirror:  # of the mirror image, too, it is told from where it was cut
        corner = corner[0], max(0, full[1] - spec.size[1] - corner[1])
    out = change_colour(change_geometry(out, augment, rng, mirror), augment, rng)
    pixels = image_ops.normalize(np.asarray(out), spec)
    return Augmented(pixels, (size[1], size[0], *corner, *spec.size))


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 when there is none or it is unreadable."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except image_ops.BROKEN:
        return 1


def random_box(size: tuple[int, int], augment: Augment, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random crop of a picture of `size` (width, height): (left, top, right, bottom)."""
    width, height = size
    low, high = augment.crop_scale or (1.0, 1.0)
    logs = math.log(augment.crop_ratio[0]), math.log(augment.crop_ratio[1])
    for _ in range(10):
        area = width * height * rng.uniform(low, high)
        ratio = math.exp(rng.uniform(*logs))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return float(left), float(top), float(left + w), float(top + h)
    # No crop of such an aspect fits: the largest middle one that does.
    w = min(width, height * augment.crop_ratio[1])
    h = min(height, width / augment.crop_ratio[0])
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def decode(image: Image.Image, source: bytes, turn: int, shrink: float, augment: Augment) -> Image.Image:
    """`image` (header read) decoded upright in RGB, JPEG files at the smallest scale that is at least `shrink`."""
    if augment.decoder == "opencv" and _plain_jpeg(image, source):
        out = Image.fromarray(_opencv(source, shrink if augment.draft else 1.0))
    else:
        if augment.draft and image.format == "JPEG" and shrink < 1:
            image.draft("RGB", (math.ceil(image.width * shrink), math.ceil(image.height * shrink)))
        out = image_ops.on_white(image_ops.to_rgb(image_ops.load(image)))
    return out.transpose(TURNS[turn]) if turn in TURNS else out


def _plain_jpeg(image: Image.Image, source: bytes) -> bool:
    # opencv fills what a truncated file lacks without a word, so a file must end as JPEG does; Pillow judges the rest.
    return image.format == "JPEG" and image.mode in ("RGB", "L") and source.rfind(b"\xff\xd9") >= len(source) - 64


@functools.cache
def _cv2():
    try:
        import cv2
    except ImportError as error:
        raise UserError("decoder='opencv' needs opencv: pip install 'jvlm[fast]', or use 'pillow'") from error
    cv2.setNumThreads(0)
    return cv2


def _opencv(source: bytes, shrink: float) -> UInt8[np.ndarray, "H W 3"]:
    cv2 = _cv2()
    reduced = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    flags = next((flag for factor, flag in reduced.items() if shrink * factor <= 1), cv2.IMREAD_COLOR)
    out = cv2.imdecode(np.frombuffer(source, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if out is None:
        raise image_ops.BadPicture("picture: opencv cannot decode it", "corrupt picture")
    return cv2.cvtColor(out, cv2.COLOR_BGR2RGB)


def change_geometry(
    image: Image.Image, augment: Augment, rng: np.random.Generator, mirror: bool = False
) -> Image.Image:
    """Mirror image where asked for, zoom, shift and rotation about the centre, in one resampling."""
    if augment.zoom == (1.0, 1.0) and not augment.shift and not augment.rotate:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image
    zoom = rng.uniform(*augment.zoom)
    dx, dy = rng.uniform(-augment.shift, augment.shift, 2) * image.size
    angle = math.radians(rng.uniform(-augment.rotate, augment.rotate))
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    sign = -1.0 if mirror else 1.0
    cx, cy = image.width / 2, image.height / 2
    # Pillow asks for the source of each target pixel: the centre, and a rotation of what is left of it.
    a, b, d, e = sign * cos, sign * sin, -sin, cos
    matrix = (a, b, cx - a * (cx + dx) - b * (cy + dy), d, e, cy - d * (cx + dx) - e * (cy + dy))
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=augment.background
    )


def change_colour(image: Image.Image, augment: Augment, rng: np.random.Generator) -> Image.Image:
    """Hue, saturation and grey as one matrix over the channels."""
    if not (augment.hue or augment.saturation or augment.grey):
        return image
    angle = math.radians(rng.uniform(-augment.hue, augment.hue))
    factor = 1 + rng.uniform(-augment.saturation, augment.saturation)
    factor = 0.0 if rng.random() < augment.grey else factor
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    turned = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    rows = (FROM_YIQ @ turned @ YIQ).tolist()
    return image.convert("RGB", tuple(x for row in rows for x in (*row, 0.0)))
