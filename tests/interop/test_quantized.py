"""Quantized directories: what other packages write is read exactly, what we write they compute with."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import UserError
from jvlm.core.sharding import PRESETS, make_mesh
from jvlm.core.tree import flatten, unflatten
from jvlm.interop import native, safetensors
from jvlm.interop.directory import load_directory
from jvlm.interop.hf import directory as hf
from jvlm.interop.packing import AWQ_ORDER, pack_words
from jvlm.interop.pretrained import Pretrained
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantizable, quantize, quantize_tree
from tests.interop import directories
from tests.interop.hf_cases import CASES, Case
from tests.reference_quantization import bitsandbytes, torch

OURS = {"clip": "clip eos id, gelu", "vit": "vit classifier", "bert": "bert, padding"}
KERNEL = "blocks/layers/mlp/up/kernel"
MODULE = "encoder.layer.{}.intermediate.dense"


def opened(name: str, directory: Path) -> tuple[Case, Pretrained]:
    case = CASES[OURS[name]]
    case.build().save_pretrained(directory)
    return case, load_directory(directory)


def quantized(source: Pretrained, scheme: str, group: int = 16, double: bool = False) -> Pretrained:
    paths = quantizable(flatten(source.params))
    return replace(source, params=quantize_tree(source.params, paths, scheme, group, double).params)


def outputs(case: Case, model: Pretrained) -> Any:
    return case.ours(model.model, {"params": model.params, **model.state}, case.inputs(model.model))


def assert_same(found: Pretrained, wanted: Pretrained) -> None:
    assert jax.tree.structure(found.params) == jax.tree.structure(wanted.params)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(wanted.params), jax.tree.leaves(found.params)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(("name", "scheme"), [("clip", "int4"), ("vit", "int4"), ("bert", "int8")])
def test_transformers_computes_with_a_packed_directory_what_jvlm_does(name: str, scheme: str, tmp_path: Path) -> None:
    case, source = opened(name, tmp_path / "source")
    ours = quantized(source, scheme)
    hf.save(ours, tmp_path / "packed", packed=True)
    reference, info = case.cls.from_pretrained(tmp_path / "packed", output_loading_info=True)
    assert not any(info.values()), info
    given = case.inputs(ours.model)
    directories.assert_near(outputs(case, ours), case.reference(reference.eval(), given))
    # What was quantized lies packed, and no dense weight beside it.
    stored = directories.tensors(tmp_path / "packed")
    packed = [tensor for key, tensor in stored.items() if key.endswith("weight_packed")]
    assert len(packed) >= 12 and all(tensor.dtype == np.int32 for tensor in packed)
    back = load_directory(tmp_path / "packed")
    for path, leaf in flatten(back.params).items():
        if isinstance(leaf, QTensor):
            np.testing.assert_array_equal(leaf.codes, flatten(ours.params)[path].codes, err_msg=path)
    directories.assert_near(outputs(case, back), outputs(case, ours), 1e-6)


@pytest.mark.parametrize("scheme", ["nf4", "int4_asym"])
def test_what_compressed_tensors_cannot_express_is_refused_and_nothing_written(scheme: str, tmp_path: Path) -> None:
    _, source = opened("vit", tmp_path / "source")
    with pytest.raises(UserError, match=f"is {scheme}.*int4 or int8"):
        hf.save(quantized(source, scheme), tmp_path / "packed", packed=True)
    with pytest.raises(UserError, match="no dense kernel is quantized"):
        hf.save(source, tmp_path / "packed", packed=True)
    assert not (tmp_path / "packed").exists()


def test_a_dense_export_holds_what_the_codes_stand_for(tmp_path: Path) -> None:
    case, source = opened("bert", tmp_path / "source")
    ours = quantized(source, "nf4")
    hf.save(ours, tmp_path / "dense")
    dense = load_directory(tmp_path / "dense")
    assert not any(isinstance(leaf, QTensor) for leaf in flatten(dense.params).values())
    directories.assert_near(outputs(case, dense), outputs(case, ours), 1e-6)


@pytest.mark.parametrize(("scheme", "double"), [("nf4", True), ("int4_asym", False), ("int8", False)])
def test_our_directory_is_read_back_to_the_bit(scheme: str, double: bool, tmp_path: Path) -> None:
    _, source = opened("clip", tmp_path / "source")
    ours = quantized(replace(source, params=jax.tree.map(lambda x: x.astype(jnp.bfloat16), source.params)), scheme)
    flat = flatten(ours.params)
    path = "text_tower/blocks/layers/mlp/up/kernel"
    flat[path] = replace(quantize(flat[path].dequantize(), scheme, 16, double), inner=jnp.ones(flat[path].shape[:-1]))
    ours = replace(ours, params=unflatten(flat))
    native.save(ours, tmp_path / "ours")
    back = load_directory(tmp_path / "ours")
    assert_same(back, ours)
    assert back.model == ours.model and back.config == ours.config
    codes = directories.tensors(tmp_path / "ours")[f"{path}/codes"]
    assert codes.nbytes == flat[path].codes.size * (1 if scheme == "int8" else 0.5)
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
    placed = load_directory(tmp_path / "ours", placement=(mesh, PRESETS["fsdp_tp"]))
    assert_same(placed, ours)
    leaf = flatten(placed.params)[path]
    assert leaf.codes.sharding.spec == leaf.scale.sharding.spec and not leaf.codes.sharding.is_fully_replicated


def test_a_damaged_directory_of_ours_is_named(tmp_path: Path) -> None:
    _, source = opened("vit", tmp_path / "source")
    native.save(quantized(source, "int4"), tmp_path / "ours")
    tensors = directories.tensors(tmp_path / "ours")
    (tmp_path / "ours" / "model.safetensors").unlink()
    left = {name: tensor for name, tensor in tensors.items() if name != "head/kernel/scale"}
    safetensors.write(tmp_path / "ours", left.items())
    with pytest.raises(UserError, match="'head/kernel/scale' is missing"):
        load_directory(tmp_path / "ours")
    safetensors.write(tmp_path / "ours", (tensors | {"gate": np.zeros(2, np.float32)}).items())
    with pytest.raises(UserError, match="'gate' has no place"):
        load_directory(tmp_path / "ours")


Modules = dict[str, np.ndarray]


def rewritten(directory: Path, method: dict[str, Any], module: Callable[[str, np.ndarray], Modules]) -> Modules:
    """Replaces the dense weights of the encoder's layers by what `module` makes of them; returns the former ones."""
    tensors = directories.tensors(directory)
    chosen = {name: x for name, x in tensors.items() if ".layer." in name and name.endswith("dense.weight")}
    left = {name: tensor for name, tensor in tensors.items() if name not in chosen}
    for name, weight in chosen.items():
        left |= module(name.removesuffix(".weight"), weight)
    (directory / "model.safetensors").unlink()
    safetensors.write(directory, left.items())
    config = directories.read_config(directory) | dict(quantization_config=method)
    (directory / "config.json").write_text(json.dumps(config))
    return chosen


def kernels(model: Pretrained) -> dict[str, Any]:
    found = {path: leaf for path, leaf in flatten(model.params).items() if path.startswith("blocks/layers")}
    return {path: leaf for path, leaf in found.items() if isinstance(leaf, QTensor)}


@pytest.mark.parametrize(("double", "group"), [(False, 32), (True, 32), (False, 64)])
def test_bitsandbytes_is_read_exactly(double: bool, group: int, tmp_path: Path) -> None:
    opened("bert", tmp_path)
    wanted: Modules = {}

    def module(name: str, weight: np.ndarray) -> Modules:
        packed, state = bitsandbytes.quantize_4bit(
            torch.from_numpy(weight), blocksize=group, quant_type="nf4", compress_statistics=double
        )
        wanted[name] = bitsandbytes.dequantize_4bit(packed, state).numpy()
        parts = {f"{name}.weight": packed.numpy()}
        return parts | {f"{name}.weight.{key}": x.numpy() for key, x in state.as_dict(packed=True).items()}

    rewritten(tmp_path, dict(quant_method="bitsandbytes", load_in_4bit=True, bnb_4bit_quant_type="nf4"), module)
    back = load_directory(tmp_path)
    # A width of 32 has whole blocks of 32; blocks of 64 and a hidden width of 48 run over rows, and are dequantized.
    found = kernels(back)
    assert set(found) == ({"blocks/layers/attn/out/kernel", KERNEL} if group == 32 else set())
    assert all((leaf.magnitude is not None) == double for leaf in found.values())
    dense = hf.materialized(back)
    for layer in range(2):
        for name, path in ((MODULE, KERNEL), ("encoder.layer.{}.output.dense", "blocks/layers/mlp/down/kernel")):
            np.testing.assert_array_equal(np.asarray(dense[path])[layer].T, wanted[name.format(layer)])


def affine(weight: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes 0..15 [in, out], zeros [in / group, out], scales float16 [in / group, out]) of a weight [out, in]."""
    blocks = weight.T.reshape(-1, group, weight.shape[0])
    low, high = np.minimum(blocks.min(1), 0), np.maximum(blocks.max(1), 0)
    scale = ((high - low) / 15).astype(np.float16)
    zero = np.clip(np.round(-low / scale.astype(np.float32)), 1, 15)
    codes = np.clip(np.round(blocks / scale.astype(np.float32)[:, None]) + zero[:, None], 0, 15)
    return codes.reshape(weight.T.shape).astype(np.uint8), zero.astype(np.uint8), scale


def written_out(codes: np.ndarray, zero: np.ndarray, scale: np.ndarray, order: np.ndarray) -> np.ndarray:
    return (codes.astype(np.float32) - zero[order]) * scale.astype(np.float32)[order]


@pytest.mark.parametrize("kind", ["gptq", "gptq_v2", "gptq act order", "gptq sym", "awq"])
def test_gptq_and_awq_are_read_exactly(kind: str, tmp_path: Path) -> None:
    """Packed as AutoGPTQ (`qlinear_cuda.py`, `pack`; zeros minus one before v2) and AutoAWQ (`WQLinear_GEMM`) do."""
    opened("bert", tmp_path)
    wanted: Modules = {}

    def module(name: str, weight: np.ndarray) -> Modules:
        codes, zero, scale = affine(weight, 16)
        extent = len(codes)
        order = np.arange(extent) // 16
        if kind == "gptq sym":
            zero = np.full_like(zero, 8)
        if kind == "gptq act order":
            order = np.random.default_rng(0).permutation(order)
        wanted[name] = written_out(codes, zero, scale, order)
        if kind == "awq":
            packed = dict(qweight=pack_words(codes, order=AWQ_ORDER), qzeros=pack_words(zero, order=AWQ_ORDER))
        else:
            stored = zero if kind == "gptq_v2" else zero - 1
            packed = dict(qweight=pack_words(codes.T.copy()).T.copy(), qzeros=pack_words(stored))
            packed["g_idx"] = order.astype(np.int32)
        return {f"{name}.{key}": np.ascontiguousarray(x) for key, x in (packed | dict(scales=scale)).items()}

    method = dict(quant_method=kind.partition("_")[0].split()[0], bits=4, group_size=16, sym=kind == "gptq sym")
    if kind == "gptq_v2":
        method["checkpoint_format"] = "gptq_v2"
    rewritten(tmp_path, method, module)
    back = load_directory(tmp_path)
    found = kernels(back)
    assert len(found) == (0 if kind == "gptq act order" else 3)
    assert all(leaf.scheme == ("int4" if kind == "gptq sym" else "int4_asym") for leaf in found.values())
    dense = hf.materialized(back)
    for layer in range(2):
        actual = np.asarray(dense[KERNEL], np.float32)[layer]
        np.testing.assert_array_equal(actual, wanted[MODULE.format(layer)].astype(np.float16).astype(np.float32))


def test_a_packed_directory_is_read_in_shards(tmp_path: Path) -> None:
    _, source = opened("bert", tmp_path / "source")
    hf.save(quantized(source, "int4"), tmp_path / "packed", packed=True)
    mesh = make_mesh(dict(data=2, fsdp=2, tensor=2))
    whole = load_directory(tmp_path / "packed")
    placed = load_directory(tmp_path / "packed", placement=(mesh, PRESETS["fsdp_tp"]))
    assert_same(placed, whole)
    leaf = flatten(placed.params)[KERNEL]
    assert leaf.codes.sharding.spec == leaf.scale.sharding.spec and not leaf.codes.sharding.is_fully_replicated


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dict(quant_method="hqq"), "quant_method 'hqq', which jvlm does not read"),
        (dict(quant_method="awq", bits=4, version="gemv"), "version = 'gemv'"),
        (dict(quant_method="gptq", bits=3), "bits = 3"),
        (dict(quant_method="bitsandbytes", load_in_8bit=True, load_in_4bit=False), "load_in_4bit = False"),
    ],
)
def test_what_is_not_read_is_refused_by_name(method: dict[str, Any], message: str, tmp_path: Path) -> None:
    opened("vit", tmp_path)
    config = directories.read_config(tmp_path) | dict(quantization_config=method)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        load_directory(tmp_path)
