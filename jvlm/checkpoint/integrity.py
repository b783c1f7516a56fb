"""What makes a damaged checkpoint visible: a sum per leaf, a digest per file.

Orbax restores a flipped bit without a word. The leaf sum is taken on the device before the save starts and
again after the restore, so it covers all of the way: host memory, serialization, disk, network. The file
digest is taken after Orbax has committed, and tells before anything is read which file has changed since.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import lax
from jaxtyping import UInt32

from jvlm.core.types import Array

CHUNK = 4 << 20
"""Bytes read at a time when a file is hashed."""
THREADS = 4
"""Files hashed at a time: hashlib releases the interpreter lock."""


class Problem(NamedTuple):
    """One thing that is wrong with a checkpoint; `str()` is the line to print."""

    where: str
    """The step and the leaf or the file: `step 100, leaf params/head/kernel`."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


class FileRecord(NamedTuple):
    """What a manifest knows about one file."""

    size: int
    """Bytes."""
    sha256: str


def leaf_sum(x: Array) -> UInt32[Array, ""]:
    """A 32-bit sum over the bits of `x` that does not depend on how `x` is sharded.

    Element i of the global, row-major array is read as a uint32 word w_i (a 64-bit element as two), and the
    sum is sum_i mix(w_i) h(i) modulo 2^32, where `mix` is a bijection of the 32-bit words and h(i) an odd
    hash of i.

    A change within one word, one bit or many, always changes the sum: `mix` is a bijection, so the word's
    image changes; an odd number has an inverse modulo 2^32, so the product with h(i) changes; the rest stays
    as it is. Without `mix` two flipped signs would cancel (2^31 odd + 2^31 odd = 0); with it any other
    damage, a swap or a page of zeros, escapes with a chance of about 2^-32. Addition modulo 2^32 is
    associative, so devices may add in any order, and each adds only its own shard: the one communication is
    the reduction of a scalar.

    Takes any storable dtype, PRNG keys, 0-d and empty arrays; returns a uint32 scalar on the same devices.
    """
    if isinstance(x, np.ndarray):
        if x.dtype.itemsize >= 8:  # jax would cut these to 32 bits unless x64 is on
            x = np.ascontiguousarray(x).reshape(-1).view(np.uint32)
    elif jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    out = _leaf_sum(x)
    # Devices of a CPU share its threads: reductions of many leaves under way at once can wait for each other for ever.
    return jax.block_until_ready(out) if jax.default_backend() == "cpu" else out


@jax.jit
def _leaf_sum(x: jax.Array) -> jax.Array:
    words = _words(x)
    index, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        # Past 2^32 elements the index wraps and h repeats; h stays odd, which is all that certainty needs.
        index += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    hashed = _mix(index + np.uint32(0x9E3779B9)) | np.uint32(1)
    return jnp.sum(_mix(words) * hashed, dtype=jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that spreads every bit: xor-shifts and odd factors, each of them invertible."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _words(x: jax.Array) -> jax.Array:
    """The bits of `x` as uint32: one word an element; for 64 bits a last axis of two, low word first."""
    if jnp.iscomplexobj(x):
        parts = [_words(lax.real(x)), _words(lax.imag(x))]
        return jnp.stack(parts, axis=x.ndim)
    bits = 1 if x.dtype == jnp.bool_ else jax.dtypes.itemsize_bits(x.dtype)
    if bits == 64:
        return lax.bitcast_convert_type(x, jnp.uint32)
    if bits < 8 or x.dtype == jnp.bool_:
        # Sub-byte types are summed by value: whether they lie packed differs between backends and files.
        if jnp.issubdtype(x.dtype, jnp.floating):
            x = lax.bitcast_convert_type(x, jnp.uint4)
        return x.astype(jnp.int32).astype(jnp.uint32) & np.uint32(2**bits - 1)
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


@jax.jit
def _all_finite(x: jax.Array) -> jax.Array:
    return jnp.isfinite(x).all()


def is_finite(x: Array) -> bool:
    """Whether no element is NaN or infinite; True for integers, booleans and empty arrays."""
    if not jnp.issubdtype(x.dtype, jnp.inexact) or x.size == 0:
        return True
    if isinstance(x, np.ndarray) and x.dtype.itemsize >= 8:
        return bool(np.isfinite(x).all())
    return bool(_all_finite(x))


def list_files(root: epath.Path) -> dict[str, epath.Path]:
    """`{path relative to root: path}` of every file below `root`, sorted."""

    def walk(folder: epath.Path, prefix: str) -> Iterator[tuple[str, epath.Path]]:
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from walk(entry, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry

    return dict(sorted(walk(root, "")))


def record_file(path: epath.Path) -> FileRecord:
    """Size and SHA-256 of one file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(size, digest.hexdigest())


def record_files(root: epath.Path, *, skip: Iterable[str] = ()) -> dict[str, FileRecord]:
    """The record of every file below `root` but those named in `skip` (relative paths)."""
    files = {name: path for name, path in list_files(root).items() if name not in set(skip)}
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(files, pool.map(record_file, files.values())))


def check_files(
    root: epath.Path,
    records: Mapping[str, FileRecord],
    *,
    skip: Iterable[str] = (),
    share: tuple[int, int] = (0, 1),
) -> list[tuple[str, str]]:
    """What differs between the files below `root` and their records, as `(file, reason)`.

    Every missing, added or changed file is named. With `share=(k, n)` only each n-th file from the k-th on is
    read: n processes check a large step together. A size that differs is told without reading.
    """
    found = {name: path for name, path in list_files(root).items() if name not in set(skip)}
    wrong = [(name, "missing") for name in records if name not in found]
    wrong += [(name, "not part of the checkpoint: it was added later") for name in found if name not in records]

    def compare(name: str) -> tuple[str, str] | None:
        try:
            size = found[name].stat().length
            if size != records[name].size:
                return name, f"{size} bytes where {records[name].size} were written"
            if record_file(found[name]).sha256 != records[name].sha256:
                return name, "its content has changed since it was written (SHA-256 differs)"
        except OSError as error:
            return name, f"cannot be read ({error.strerror or error})"
        return None

    mine = [name for name in records if name in found][share[0] :: share[1]]
    with ThreadPoolExecutor(THREADS) as pool:
        wrong += [problem for problem in pool.map(compare, mine) if problem]
    return sorted(wrong)
