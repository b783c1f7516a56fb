"""Quantized transformers directories, inwards: their modules as tensors of the family's table, or as leaves.

A `quantization_config` in config.json names the method; `METHODS` says which tensors a quantized module consists of
and what leaf they are. Where a rule of the table is a plain transpose the codes are kept; anywhere else, and where a
module's groups are not ours, the kernel is dequantized.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm.core.bijections import TRANSPOSE
from jvlm.core.errors import UserError, nearest
from jvlm.core.mapping import Index, Reader, Rule, published_names
from jvlm.interop.packing import AWQ_ORDER, IN_ORDER, unpack_words
from jvlm.transforms import codes_nf4, double_quantization
from jvlm.transforms.qtensor import QTensor

Tensors = Mapping[str, np.ndarray]
Module = QTensor | np.ndarray
"""A kernel [in, out] as a leaf, or the dense weight [out, in]."""


@dataclass(frozen=True)
class Method:
    """Tensors of a quantized module by suffix (`needed` and `optional`), and how they are read."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[Tensors, Mapping[str, Any]], Module]


def _bitsandbytes(tensors: Tensors, config: Mapping[str, Any]) -> Module:
    """bitsandbytes 4-bit: blocks over the flattened [out, in], the first of a pair in the high half of a byte."""
    state = json.loads(tensors["weight.quant_state.bitsandbytes__nf4"].tobytes())
    packed = tensors["weight"].view(np.uint8).reshape(-1)
    out, extent = state["shape"]
    codes = np.stack([packed >> 4, packed & 15], -1).reshape(-1)[: out * extent]
    group = state["blocksize"]
    absmax = tensors["weight.absmax"]
    nested: dict[str, Any] = {}
    if "nested_offset" in state:
        table, magnitude = tensors["weight.nested_quant_map"], tensors["weight.nested_absmax"]
        offset = np.float32(state["nested_offset"])
        same = np.array_equal(table, double_quantization.dynamic_map())
        if same and state["nested_blocksize"] == double_quantization.BLOCK and extent % group == 0:
            nested = dict(magnitude=jnp.asarray(magnitude), offset=jnp.asarray(offset))
        else:
            absmax = table[absmax] * np.repeat(magnitude, state["nested_blocksize"])[: absmax.size] + offset
    dtype = str(jnp.dtype(state["dtype"]))
    if extent % group or not np.array_equal(tensors["weight.quant_map"], codes_nf4.TABLE):
        # A block that runs over the end of a row is no group of ours.
        values = tensors["weight.quant_map"][codes] * np.repeat(absmax, group)[: codes.size]
        return values.reshape(out, extent).astype(jnp.dtype(dtype))
    return QTensor(
        jnp.asarray((codes.astype(np.int8) - 8).reshape(out, extent).T, jnp.int4),
        jnp.asarray(absmax.reshape(out, -1).T),
        **nested,
        scheme="nf4",
        group=group,
        dtype=dtype,
    )


def _affine(codes: np.ndarray, zero: np.ndarray | None, scale: np.ndarray, group: int, bits: int) -> QTensor:
    """A leaf of unsigned codes [in, out] and zeros; a zero in the middle everywhere is a symmetric scheme."""
    middle = 2 ** (bits - 1)
    shifted = None if zero is None else (zero.astype(np.int16) - middle).astype(np.int8)
    symmetric = shifted is None or not shifted.any()
    return QTensor(
        jnp.asarray((codes.astype(np.int16) - middle).astype(np.int8), jnp.int4 if bits == 4 else jnp.int8),
        jnp.asarray(scale, jnp.float32),
        None if symmetric else jnp.asarray(shifted),
        scheme=f"int{bits}" if symmetric else f"int{bits}_asym",
        group=group,
        dtype=str(scale.dtype),
    )


def _gptq(tensors: Tensors, config: Mapping[str, Any]) -> Module:
    """GPTQ: codes packed along `in`, zeros along `out`; the first format stores a zero minus one."""
    bits = config.get("bits", 4)
    words, scale = tensors["qweight"], tensors["scales"]
    extent, width = words.shape[0] * 32 // bits, words.shape[1]
    codes = unpack_words(np.ascontiguousarray(words.T), extent, bits).T
    zero = unpack_words(tensors["qzeros"], width, bits).astype(np.int16)
    if config.get("sym"):
        zero = np.full_like(zero, 2 ** (bits - 1))  # writers disagree on whether one is subtracted
    elif config.get("checkpoint_format", "gptq") == "gptq":
        zero = zero + 1
    group = extent // scale.shape[0]
    order = tensors.get("g_idx", np.arange(extent) // group)
    if np.array_equal(order, np.arange(extent) // group):
        return _affine(codes, zero, scale, group, bits)
    # Groups in the order of activations are scattered over the inputs.
    return ((codes.astype(np.int16) - zero[order]) * scale.astype(np.float32)[order]).T.astype(scale.dtype)


def _awq(tensors: Tensors, config: Mapping[str, Any]) -> Module:
    """AutoAWQ's GEMM format: codes and zeros packed along `out` in an order of its own."""
    words, scale = tensors["qweight"], tensors["scales"]
    extent, width = words.shape[0], words.shape[1] * 8
    codes = unpack_words(words, width, order=AWQ_ORDER)
    zero = unpack_words(tensors["qzeros"], width, order=AWQ_ORDER)
    return _affine(codes, zero, scale, extent // scale.shape[0], 4)


def _compressed(tensors: Tensors, config: Mapping[str, Any]) -> Module:
    """compressed-tensors' pack-quantized: codes packed along `in`, zeros along `out`, both plus 2^(bits - 1)."""
    out, extent = (int(x) for x in tensors["weight_shape"])
    words, scale = tensors["weight_packed"], tensors["weight_scale"]
    bits = 4 if words.shape[1] == -(-extent // 8) else 8
    if words.shape[1] != -(-extent * bits // 32):
        raise UserError(f"packed weights of {words.shape[1]} words for {extent} inputs; jvlm reads 4 and 8 bits")
    zero = tensors.get("weight_zero_point")
    if zero is not None:
        zero = unpack_words(np.ascontiguousarray(zero.T), out, bits, IN_ORDER)
    return _affine(unpack_words(words, extent, bits).T, zero, scale.T, extent // scale.shape[1], bits)


_STATE = "weight.quant_state.bitsandbytes__nf4"
METHODS: dict[str, Method] = {
    "awq": Method(("qweight", "qzeros", "scales"), (), _awq),
    "bitsandbytes": Method(
        (_STATE, "weight", "weight.absmax", "weight.quant_map"),
        ("weight.nested_absmax", "weight.nested_quant_map"),
        _bitsandbytes,
    ),
    "compressed-tensors": Method(
        ("weight_packed", "weight_scale", "weight_shape"), ("weight_zero_point",), _compressed
    ),
    "gptq": Method(("qweight", "qzeros", "scales"), ("g_idx",), _gptq),
}


class QuantizedReader:
    """A directory's tensors by the names they had before they were quantized.

    Raises UserError for a method, or a variant of one, that jvlm does not read.
    """

    def __init__(self, reader: Reader, config: Mapping[str, Any]) -> None:
        kind = str(config.get("quant_method"))
        if kind not in METHODS:
            raise UserError(
                f"config.json has quant_method {kind!r}, which jvlm does not read; {nearest(kind, METHODS)}"
            )
        _check(kind, config)
        self._reader, self._config, self._method = reader, config, METHODS[kind]
        names = set(reader.names())
        mark = "." + self._method.needed[0]
        modules = {name.removesuffix(mark) for name in names if name.endswith(mark)}
        self._tensors = {
            f"{module}.weight": {
                suffix: f"{module}.{suffix}"
                for suffix in (*self._method.needed, *self._method.optional)
                if suffix in self._method.needed or f"{module}.{suffix}" in names
            }
            for module in modules
        }
        used = {name for tensors in self._tensors.values() for name in tensors.values()}
        if missing := sorted(used - names):
            raise UserError(f"the tensor {missing[0]!r} is missing; copy the directory again")
        self._names = sorted(names - used | set(self._tensors))
        self._last: tuple[str, Module] | None = None

    def names(self) -> Iterable[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            return self._reader.shape(name)
        module = self._module(name)
        return (module.shape[1], module.shape[0]) if isinstance(module, QTensor) else module.shape

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        if name not in self._tensors:
            return self._reader.read(name, index)
        module = self._module(name)
        dense = np.asarray(module.dequantize()).T if isinstance(module, QTensor) else module
        return dense[index] if index else dense

    def leaf(self, rule: Rule, shapes: Mapping[str, Any]) -> QTensor | None:
        """The leaf that a rule's tensors are together, or None where they have to be read as dense ones."""
        if rule.fn is not TRANSPOSE or len(rule.paths) != 1:
            return None
        names = published_names(rule, shapes)
        if any(name not in self._tensors for name in names):
            return None
        modules = [self._module(name) for name in names]
        layers = [module for module in modules if isinstance(module, QTensor)]
        if len(layers) < len(modules) or len({jax.tree.structure(layer) for layer in layers}) > 1:
            return None
        return jax.tree.map(lambda *xs: jnp.stack(xs), *layers) if rule.stacked else layers[0]

    def _module(self, name: str) -> Module:
        if self._last is None or self._last[0] != name:  # asked for its shape and read one after the other
            tensors = {suffix: self._reader.read(full) for suffix, full in self._tensors[name].items()}
            self._last = (name, self._method.build(tensors, self._config))
        return self._last[1]


def _check(kind: str, config: Mapping[str, Any]) -> None:
    """What a method can be and jvlm does not read is refused by name."""

    def require(key: str, *allowed: Any) -> None:
        if config.get(key, allowed[0]) not in allowed:
            wanted = " or ".join(repr(value) for value in allowed)
            raise UserError(f"quantization_config has {key} = {config[key]!r}; jvlm reads {wanted}")

    if kind == "awq":
        require("version", "gemm")
        require("bits", 4)
    elif kind == "gptq":
        require("bits", 4, 8)
        require("checkpoint_format", "gptq", "gptq_v2")
    elif kind == "bitsandbytes":
        require("load_in_4bit", True)
        require("bnb_4bit_quant_type", "nf4")
    else:
        require("format", "pack-quantized")
