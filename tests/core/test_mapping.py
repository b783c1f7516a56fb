"""One table, both directions: bijections, totality, and what is read."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jvlm.core import bijections, mapping, sharding
from jvlm.core.bijections import Bijection
from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule, rule


class Memory:
    """A reader over arrays in memory that counts the bytes it hands out."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays, self.bytes = arrays, 0

    def names(self) -> Iterable[str]:
        return self.arrays

    def shape(self, name: str) -> tuple[int, ...]:
        return self.arrays[name].shape

    def read(self, name: str, index: mapping.Index | None = None) -> np.ndarray:
        out = self.arrays[name] if index is None else self.arrays[name][index]
        self.bytes += out.nbytes
        return out


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shapes(arrays: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in arrays.items()}


BIJECTIONS: dict[str, tuple[Bijection, tuple[int, ...]]] = {
    "identity": (bijections.IDENTITY, (3, 4)),
    "identity of a scalar": (bijections.IDENTITY, ()),
    "transpose": (bijections.TRANSPOSE, (3, 4)),
    "conv": (bijections.CONV, (5, 4, 3, 2)),
    "pointwise": (bijections.POINTWISE, (5, 4, 1, 1)),
    "patch": (bijections.patch(2), (5, 3, 2, 2)),
    "lead": (bijections.lead(2), (4,)),
    "drop lead": (bijections.drop_lead(1), (1,)),
    "split, transposed": (bijections.split(3, transpose=True), (6, 4)),
    "split": (bijections.split(3, transpose=False), (6,)),
}


@pytest.mark.parametrize("name", BIJECTIONS)
def test_loading_then_saving_is_the_identity(name: str) -> None:
    fn, shape = BIJECTIONS[name]
    x = draw(*shape)
    back = fn.save(*fn.load(x))
    assert back.shape == x.shape
    assert (back == x).all()


@pytest.mark.parametrize("name", [name for name, (fn, _) in BIJECTIONS.items() if fn.region is not None])
def test_a_region_read_alone_is_that_region_of_the_whole(name: str) -> None:
    fn, shape = BIJECTIONS[name]
    x = draw(*shape)
    (whole,) = fn.load(x)
    assert fn.region is not None
    assert fn.region(whole.shape) == shape
    index = tuple(slice(0, max(1, extent - 1)) for extent in whole.shape)
    assert (fn.load(np.asarray(x[fn.region(index)]))[0] == whole[index]).all()


def table() -> tuple[list[Rule], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(rules, published, ours): a scalar, a fused tensor over two layers, a stacked kernel."""
    rules = [
        rule("scale", "scale"),
        rule("block.{}.qkv", ("q/kernel", "k/kernel"), bijections.split(2, transpose=True)),
        rule("block.{}.fc.weight", "fc/kernel", bijections.TRANSPOSE),
        mapping.constant("count", np.zeros((), np.int64)),
    ]
    published = {"scale": draw(), "count": np.zeros((), np.int64)}
    for layer in range(2):
        published[f"block.{layer}.qkv"] = draw(6, 4, seed=layer)
        published[f"block.{layer}.fc.weight"] = draw(16, 8, seed=10 + layer)
    qkv = [published[f"block.{layer}.qkv"] for layer in range(2)]
    ours = {
        "scale": published["scale"],
        "q/kernel": np.stack([x[:3].T for x in qkv]),
        "k/kernel": np.stack([x[3:].T for x in qkv]),
        "fc/kernel": np.stack([published[f"block.{layer}.fc.weight"].T for layer in range(2)]),
    }
    return rules, published, ours


def test_loading_gives_our_arrays_and_saving_gives_theirs_back() -> None:
    rules, published, ours = table()
    flat = mapping.load(rules, shapes(ours), Memory(published))
    assert flat.keys() == ours.keys()
    assert all((np.asarray(flat[path]) == x).all() for path, x in ours.items())
    back = dict(mapping.save(rules, flat))
    assert back.keys() == published.keys()
    for name, x in published.items():
        assert (back[name].shape, back[name].dtype) == (x.shape, x.dtype)
        assert (back[name] == x).all()
        assert back[name].flags.c_contiguous


def test_a_constant_may_be_absent_where_it_is_read() -> None:
    rules, published, ours = table()
    del published["count"]
    mapping.load(rules, shapes(ours), Memory(published))


@pytest.mark.parametrize("name", ["scale", "block.1.qkv"])
def test_a_missing_tensor_is_named(name: str) -> None:
    rules, published, ours = table()
    del published[name]
    with pytest.raises(UserError, match=f"'{name}' is missing"):
        mapping.load(rules, shapes(ours), Memory(published))


def test_a_tensor_without_a_place_is_named_unless_ignored() -> None:
    rules, published, ours = table()
    published |= {"block.2.qkv": draw(6, 4), "block.2.mask": draw(1)}
    with pytest.raises(UserError, match=r"'block\.2\.mask' has no place in the model \(and 1 more\)"):
        mapping.load(rules, shapes(ours), Memory(published))
    mapping.load(rules, shapes(ours), Memory(published), ignore=("block.2.*",))


def test_a_parameter_without_a_rule_is_named() -> None:
    rules, published, ours = table()
    with pytest.raises(UserError, match="no rule covers the parameter 'extra'"):
        mapping.load(rules, shapes(ours | {"extra": draw(1)}), Memory(published))


def test_a_rule_for_a_parameter_that_the_model_lacks_names_the_nearest() -> None:
    rules, published, ours = table()
    rules.append(rule("scales", "scael"))
    with pytest.raises(UserError, match=r"'scael', which the model lacks; did you mean 'scale'"):
        mapping.load(rules, shapes(ours), Memory(published))


@pytest.mark.parametrize("wrong", [(5, 4), (6,), (12, 4), (6, 4, 1)])
def test_a_tensor_of_another_shape_is_named(wrong: tuple[int, ...]) -> None:
    rules, published, ours = table()
    published["block.1.qkv"] = draw(*wrong)
    with pytest.raises(UserError, match=r"'block\.1\.qkv' has shape"):
        mapping.load(rules, shapes(ours), Memory(published))


def test_dtypes_are_kept_or_cast() -> None:
    rules, published, ours = table()
    half = {name: np.asarray(jnp.asarray(x, jnp.bfloat16)) for name, x in published.items() if name != "count"}
    kept = mapping.load(rules, shapes(ours), Memory(half))
    assert {x.dtype for x in kept.values()} == {jnp.dtype(jnp.bfloat16)}
    cast = mapping.load(rules, shapes(ours), Memory(half), dtype=np.float32)
    assert all((cast[path] == kept[path].astype(np.float32)).all() for path in kept)


@pytest.mark.parametrize("first", [np.float16, jnp.bfloat16, np.float32])
def test_layers_of_two_precisions_lose_nothing(first: Any) -> None:
    rules, published, ours = table()
    published["block.0.fc.weight"] = published["block.0.fc.weight"].astype(first)
    kernel = np.asarray(mapping.load(rules, shapes(ours), Memory(published))["fc/kernel"])
    assert kernel.dtype == np.float32
    assert (kernel[0] == published["block.0.fc.weight"].T.astype(np.float32)).all()
    assert (kernel[1] == published["block.1.fc.weight"].T).all()


def test_prefixes_go_on_both_sides() -> None:
    (nested,) = mapping.nest([rule("a.{}", ("b", "c"))], "model.", "tower/")
    assert (nested.name, nested.paths) == ("model.a.{}", ("tower/b", "tower/c"))


def test_sharded_loading_reads_each_region_once_and_equals_unsharded() -> None:
    rules, published, ours = table()
    mesh = sharding.make_mesh(dict(fsdp=8))
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = dict.fromkeys(ours, whole) | {"fc/kernel": NamedSharding(mesh, PartitionSpec(None, None, "fsdp"))}
    reader = Memory(published)
    flat = mapping.load(rules, shapes(ours), reader, shardings=shardings)
    for path, x in ours.items():
        assert flat[path].sharding.is_equivalent_to(shardings[path], x.ndim)
        assert (np.asarray(flat[path]) == x).all()
    fused = 2 * sum(published[f"block.{layer}.qkv"].nbytes for layer in range(2))  # once for each of its two arrays
    stacked = ours["fc/kernel"].nbytes
    assert reader.bytes == ours["scale"].nbytes + fused + stacked


def test_a_layer_that_no_local_device_holds_is_not_read() -> None:
    rules, published, ours = table()
    mesh = sharding.make_mesh(dict(fsdp=2), jax.devices()[:2])
    kernel = NamedSharding(mesh, PartitionSpec("fsdp", None, None))
    reader = Memory(published)
    build = mapping._Builder(rules[2], 0, (2, 8, 16), reader, None, "fc/kernel")
    index = kernel.addressable_devices_indices_map((2, 8, 16))[jax.devices()[1]]
    assert (build(index) == ours["fc/kernel"][1:]).all()
    assert reader.bytes == published["block.1.fc.weight"].nbytes
