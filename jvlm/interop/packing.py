"""Codes of four bits packed into bytes and 32-bit words, in the orders that files use."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int8, Int32, Integer, UInt8

IN_ORDER = tuple(range(8))
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight neighbours lies in which four bits of a word, lowest first, as AutoAWQ's GEMM format has it."""


def pack_bytes(codes: Int[np.ndarray, "..."]) -> UInt8[np.ndarray, "bytes"]:
    """Codes -8..7 in row-major order, two a byte, the first in the low half; an odd one out is padded with zero."""
    flat = np.asarray(codes).astype(np.uint8).reshape(-1) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[::2] | (flat[1::2] << 4)


def unpack_bytes(packed: UInt8[np.ndarray, "bytes"], shape: Sequence[int]) -> Int8[np.ndarray, "..."]:
    """The inverse of `pack_bytes`, as int8."""
    nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))]
    return signed(nibbles).reshape(shape)


def signed(nibbles: UInt8[np.ndarray, "..."]) -> Int8[np.ndarray, "..."]:
    """0..15 read as two's complement of four bits."""
    return ((nibbles ^ 8).astype(np.int8) - 8).astype(np.int8)


def pack_words(
    values: Integer[np.ndarray, "rows columns"], bits: int = 4, order: Sequence[int] = IN_ORDER
) -> Int32[np.ndarray, "rows words"]:
    """Values 0..2^bits - 1, 32 / bits neighbours of a row in one word, the first of `order` lowest; zeros fill up."""
    count = 32 // bits
    values = np.pad(values, [(0, 0), (0, -values.shape[1] % count)]).astype(np.uint32)
    parts = values.reshape(values.shape[0], -1, count)
    words = np.zeros(parts.shape[:2], np.uint32)
    for place, source in enumerate(order[:count]):
        words |= parts[:, :, source] << np.uint32(bits * place)
    return words.view(np.int32)


def unpack_words(
    words: Int32[np.ndarray, "rows words"], columns: int, bits: int = 4, order: Sequence[int] = IN_ORDER
) -> UInt8[np.ndarray, "rows columns"]:
    """The inverse of `pack_words`."""
    count = 32 // bits
    words = np.ascontiguousarray(words).view(np.uint32)
    out = np.empty((*words.shape, count), np.uint8)
    for place, source in enumerate(order[:count]):
        out[:, :, source] = (words >> np.uint32(bits * place)) & np.uint32(2**bits - 1)
    return out.reshape(words.shape[0], -1)[:, :columns]
