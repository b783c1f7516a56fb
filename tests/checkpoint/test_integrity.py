"""A sum that a single bit always changes and no sharding does; digests that name every file that differs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from jvlm.checkpoint.integrity import check_files, is_finite, leaf_sum, record_files
from tests.checkpoint.states import mesh_of

NARROW = ["bool", "int2", "int4", "float4_e2m1fn"]
DTYPES = [*NARROW, "int8", "uint8", "float8_e4m3fn", "int16", "float16", "bfloat16", "int32", "uint32", "float32"]
WIDE = ["int64", "uint64", "float64", "complex64", "complex128"]


def width(dtype: str) -> int:
    """Bits of an element that carry its value."""
    return 1 if dtype == "bool" else jax.dtypes.itemsize_bits(jnp.dtype(dtype))


def sample(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bits as `dtype`: NaN patterns included, which must be summed like anything else."""
    kind = jnp.dtype(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8)
    if dtype in NARROW:
        raw &= np.uint8(2 ** width(dtype) - 1)
        if dtype.startswith("int"):  # ml_dtypes keeps them sign-extended
            raw = (raw.astype(np.int8) ^ (1 << width(dtype) - 1)) - (1 << width(dtype) - 1)
    return np.ascontiguousarray(raw).view(kind).reshape(shape)


def definition(array: np.ndarray) -> int:
    """The sum as its docstring states it, in Python integers."""
    bits = width(array.dtype.name)
    if bits >= 64:
        words = array.reshape(-1).view(np.uint32).tolist()
    else:
        words = (array.reshape(-1).view(f"u{array.dtype.itemsize}") & np.array(2**bits - 1, "u4")).tolist()

    def mix(x: int) -> int:
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            x = (x ^ x >> shift) * factor % 2**32
        return x ^ x >> 16

    return sum(mix(word) * (mix((i + 0x9E3779B9) % 2**32) | 1) for i, word in enumerate(words)) % 2**32


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_is_its_definition(dtype: str):
    for shape in [(), (3, 5), (2, 3, 4), (0, 3)]:
        array = sample(dtype, shape)
        assert int(leaf_sum(jnp.asarray(array))) == definition(array), shape


@pytest.mark.parametrize("dtype", WIDE)
def test_wide_leaves_have_one_sum_on_the_host_and_on_the_device(dtype: str):
    array = sample(dtype, (3, 5))
    with jax.enable_x64(True):
        assert int(leaf_sum(jnp.asarray(array))) == int(leaf_sum(array)) == definition(array)


@pytest.mark.parametrize("dtype", [*DTYPES, *WIDE])
def test_every_single_bit_changes_the_sum(dtype: str):
    array = sample(dtype, (3, 5))
    before = int(leaf_sum(array))
    for element in range(array.size):
        for bit in range(width(dtype)):
            raw = array.copy().reshape(-1)
            view = raw.view(np.uint8).reshape(array.size, -1)
            view[element, bit // 8] ^= np.uint8(1 << bit % 8)
            assert int(leaf_sum(raw.reshape(array.shape))) != before, (element, bit)


def test_pairs_of_flipped_signs_and_swaps_change_the_sum():
    array = sample("float32", (40,))
    before = int(leaf_sum(array))
    for i in range(39):
        signs, swapped = array.copy(), array.copy()
        signs.view(np.uint32)[[i, i + 1]] ^= np.uint32(1 << 31)
        swapped[[i, i + 1]] = swapped[[i + 1, i]]
        assert int(leaf_sum(signs)) != before
        assert int(leaf_sum(swapped)) != before


@pytest.mark.parametrize("dtype", ["bool", "int4", "bfloat16", "float32"])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_sum_does_not_depend_on_the_sharding(dtype: str, count: int):
    array = sample(dtype, (16, 8))
    wanted = definition(array)
    for spec in [PartitionSpec("fsdp"), PartitionSpec(None, "fsdp"), PartitionSpec()]:
        placed = jax.device_put(array, NamedSharding(mesh_of(count), spec))
        assert int(leaf_sum(placed)) == wanted


def test_shards_are_summed_where_they_are():
    """No gather: the compiled sum of a sharded leaf moves one scalar."""
    array = jax.device_put(np.ones((64, 8), np.float32), NamedSharding(mesh_of(8), PartitionSpec("fsdp")))
    compiled = jax.jit(leaf_sum).lower(array).compile().as_text()
    assert compiled is not None
    assert "all-reduce" in compiled
    assert "all-gather" not in compiled


def test_keys_are_summed_by_their_data():
    key = jax.random.key(5)
    assert int(leaf_sum(key)) == definition(np.asarray(jax.random.key_data(key)))


def test_not_finite_leaves_are_found():
    for dtype in ("float16", "bfloat16", "float32"):
        assert is_finite(jnp.ones((3,), dtype))
        assert not is_finite(jnp.array([1, jnp.inf, 0], dtype))
    assert not is_finite(np.array([np.nan]))
    assert is_finite(jnp.ones((3,), jnp.int4))
    assert is_finite(jnp.ones((0, 3)))


def test_missing_added_and_changed_files_are_all_named(tmp_path):
    root = epath.Path(tmp_path)
    (root / "deep" / "er").mkdir(parents=True)
    for name in ("a", "b", "deep/c", "deep/er/d", "manifest.json"):
        (root / name).write_bytes(name.encode() * 100)
    records = record_files(root, skip=["manifest.json"])
    assert sorted(records) == ["a", "b", "deep/c", "deep/er/d"]
    assert check_files(root, records, skip=["manifest.json"]) == []
    (root / "a").unlink()
    (root / "b").write_bytes(b"b" * 99)
    (root / "deep/er/d").write_bytes(b"x" + b"deep/er/d"[1:] + b"deep/er/d" * 99)
    (root / "deep/new").write_bytes(b"")
    wrong = dict(check_files(root, records, skip=["manifest.json"]))
    assert sorted(wrong) == ["a", "b", "deep/er/d", "deep/new"]
    assert "missing" in wrong["a"]
    assert "99 bytes" in wrong["b"]
    assert "SHA-256" in wrong["deep/er/d"]
    assert "added" in wrong["deep/new"]


def test_shares_of_several_processes_cover_every_file_once(tmp_path):
    root = epath.Path(tmp_path)
    for i in range(7):
        (root / f"f{i}").write_bytes(bytes([i]))
    records = record_files(root)
    for i in range(7):
        (root / f"f{i}").write_bytes(bytes([i + 1]))
    found = [name for k in range(3) for name, _ in check_files(root, records, share=(k, 3))]
    assert sorted(found) == sorted(records)
