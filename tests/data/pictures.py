"""Pictures made for tests, in every mode and format that turns up in the wild."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours with edges and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg(height: int = 40, width: int = 48, seed: int = 0, **options: Any) -> bytes:
    return encode(photo(height, width, seed), "JPEG", **options)


def bomb(side: int = 10_000) -> bytes:
    """A PNG of about 12 kB whose header truthfully promises `side` x `side` x 3 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(12_000_000), 9)  # a prefix of the pixels is enough to be dangerous
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def modes() -> dict[str, bytes]:
    """File bytes by name: palette, alpha, CMYK, 16 bit, grey, EXIF."""
    base = photo(33, 47, 3)
    alpha = Image.fromarray(np.random.default_rng(1).integers(0, 256, (33, 47), np.uint8))
    rgba = base.copy()
    rgba.putalpha(alpha)
    deep = Image.fromarray(np.random.default_rng(2).integers(0, 65536, (33, 47), np.uint16))
    exif = Image.Exif()
    out = {
        "rgb": encode(base),
        "rgba": encode(rgba),
        "la": encode(rgba.convert("LA")),
        "palette": encode(base.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)),
        "palette_transparent": encode(base.quantize(16), transparency=3),
        "palette_alphas": encode(base.quantize(16), transparency=bytes([0, 128] * 8)),
        "rgb_transparent_key": encode(base, transparency=base.getpixel((20, 15))),
        "grey": encode(base.convert("L")),
        "bilevel": encode(base.convert("1")),
        "sixteen_bit": encode(deep),
        "cmyk": encode(base.convert("CMYK"), "JPEG"),
        "jpeg_grey": encode(base.convert("L"), "JPEG"),
        "webp_alpha": encode(rgba, "WEBP", lossless=True),
        "gif": encode(base.quantize(32), "GIF"),
        "tiff_float": encode(base.convert("F"), "TIFF"),
    }
    for turn in range(1, 9):
        exif[0x0112] = turn
        out[f"exif_{turn}"] = encode(base, "JPEG", exif=exif.tobytes())
    return out
