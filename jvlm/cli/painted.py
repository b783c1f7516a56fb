"""What `jvlm paint` reads and writes: noise, pictures and masks in, PNG files with their settings out."""

import argparse
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from jvlm.core.errors import ConfigError, UserError

if TYPE_CHECKING:
    from jvlm.models.latent_diffusion import LatentDiffusion


def initial(args: argparse.Namespace, model: "LatentDiffusion", count: int) -> Callable[[int, int], np.ndarray]:
    """`(first, rows)` to the first noise [rows, h, w, Z] of pictures from `first` on, of a file or of the seed.

    Raises ConfigError for a size, UserError for a file, that the model does not take.
    """
    import jax.numpy as jnp

    from jvlm.generate.diffusion import initial_noise
    from jvlm.generate.painting import noise_shape

    if args.latents:
        stored = _latents(Path(args.latents), model, count)
        return lambda first, rows: stored[np.minimum(np.arange(first, first + rows), len(stored) - 1)]
    shape = noise_shape(model, _size(args, model))
    return lambda first, rows: np.asarray(initial_noise(args.seed, jnp.arange(first, first + rows), shape))


def _latents(path: Path, model: "LatentDiffusion", count: int) -> np.ndarray:
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a .npy array ({error})") from None
    multiple = model.multiple // model.vae.factor
    channels = model.vae.latent_channels
    fits = isinstance(stored, np.ndarray) and stored.ndim == 4 and stored.shape[:2] == (count, channels)
    if not fits or any(side % multiple or not side for side in stored.shape[2:]):
        shape = list(getattr(stored, "shape", ()))
        wanted = f"[{count}, {channels}, h, w] with h and w multiples of {multiple}"
        raise UserError(f"{path} has shape {shape}; the model and {count} prompts need {wanted}")
    return stored.astype(np.float32).transpose(0, 2, 3, 1)


def _size(args: argparse.Namespace, model: "LatentDiffusion") -> tuple[int, int]:
    """(height, width) in pixels: of the picture given, as asked for, or the model's own."""
    width = height = model.size
    if args.image:
        width, height = _open(args.image).size
    if args.size:
        sides = args.size.lower().split("x")
        if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
            raise ConfigError(f"--size {args.size}: write WIDTHxHEIGHT, such as {model.size}x{model.size}")
        asked = int(sides[0]), int(sides[1])
        if args.image and asked != (width, height):
            raise ConfigError(f"--size {args.size}, but {args.image} is {width}x{height}; leave --size out")
        width, height = asked
    if width % model.multiple or height % model.multiple:
        near = "x".join(str(max(1, round(side / model.multiple)) * model.multiple) for side in (width, height))
        what = args.image if args.image else "--size"
        raise ConfigError(f"{what} is {width}x{height}; sides are multiples of {model.multiple}, such as {near}")
    return height, width


def read_picture(args: argparse.Namespace, size: tuple[int, ...]) -> tuple[Any, Any]:
    """`--image` as [1, H, W, 3] in -1..1 and `--mask` as [1, H, W, 1] of 0 and 1; None for what is not given.

    Raises UserError for a picture of another (height, width) than `size`, that of what is painted.
    """
    if not args.image:
        return None, None
    image = np.asarray(_open(args.image).convert("RGB"), np.float32)[None] / 127.5 - 1
    if image.shape[1:3] != size:
        width, height = image.shape[2], image.shape[1]
        raise UserError(f"{args.image} is {width}x{height}, but the latents make {size[1]}x{size[0]}; give one of them")
    if not args.mask:
        return image, None
    mask = np.asarray(_open(args.mask).convert("L"), np.float32)[None, :, :, None] / 255
    if mask.shape[1:3] != image.shape[1:3]:
        sizes = ["x".join(map(str, x.shape[2:0:-1])) for x in (mask, image)]
        raise UserError(f"{args.mask} is {sizes[0]}, but {args.image} is {sizes[1]}; a mask has its picture's size")
    return image, (mask >= 0.5).astype(np.float32)


def _open(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (UnidentifiedImageError, OSError):
        raise UserError(f"{path} cannot be read as a picture") from None


def put_on_devices(params: Any, wish: Any, rows: int) -> tuple[Any, Any]:
    """Parameters on every device and the rows spread over them, where they divide."""
    import jax

    from jvlm.core.sharding import batch_sharding, make_mesh

    if jax.device_count() == 1 or rows % jax.device_count():
        return params, wish
    mesh = make_mesh()
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.device_put(params, whole), jax.device_put(wish, batch_sharding(mesh))


class Output:
    """The files of `count` pictures, each written as soon as it is painted; of several, OUT-0000.png and on.

    A sheet holds all of them, so they are kept for it alone.
    """

    def __init__(self, output: Path, count: int, sheet: str | None = None) -> None:
        self._sheet = None if sheet is None else Path(sheet)
        self._kept: list[tuple[np.ndarray, str]] = []
        self.paths = [output]
        if count > 1:
            self.paths = [output.with_name(f"{output.stem}-{index:04d}{output.suffix}") for index in range(count)]

    def write(self, index: int, picture: np.ndarray, told: dict[str, Any]) -> None:
        """Writes a uint8 picture [H, W, 3] with what is `told` of it."""
        from jvlm.cli.encoding import write_file

        text = json.dumps(told)
        write_file(self.paths[index], _png(picture, text))
        if self._sheet is not None:
            self._kept.append((picture, text))

    def finish(self) -> list[Path]:
        """Writes the sheet; every path."""
        from jvlm.cli.encoding import write_file

        if self._sheet is None:
            return self.paths
        pictures, told = zip(*self._kept)
        columns = math.ceil(math.sqrt(len(pictures)))
        height, width, _ = pictures[0].shape
        page = np.full((math.ceil(len(pictures) / columns) * height, columns * width, 3), 255, np.uint8)
        for index, picture in enumerate(pictures):
            top, left = index // columns * height, index % columns * width
            page[top : top + height, left : left + width] = picture
        write_file(self._sheet, _png(page, "[" + ", ".join(told) + "]"))
        return [*self.paths, self._sheet]


def _png(picture: np.ndarray, told: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("jvlm", told)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
