"""Quantized kernels outwards, as compressed-tensors packs them: what transformers opens with that package.

int4 and int8, symmetric, in groups. Convolutions, embeddings and whatever else is not one plain transpose of a
published weight are written dense, with the values that the codes stand for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jvlm.core import mapping
from jvlm.core.bijections import TRANSPOSE
from jvlm.core.errors import UserError
from jvlm.core.leaves import Leaf
from jvlm.core.mapping import Rule, published_names
from jvlm.interop.packing import pack_words
from jvlm.transforms.codes_int import Integers
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.schemes import SCHEMES

MODULES: dict[str, tuple[tuple[str, str], ...]] = {
    "vit": (
        (r"encoder\.layer\.", "layers."),
        (r"attention\.attention\.(q|k|v)(uery|ey|alue)$", r"attention.\1_proj"),
        (r"attention\.output\.dense$", "attention.o_proj"),
        (r"intermediate\.dense$", "mlp.fc1"),
        (r"output\.dense$", "mlp.fc2"),
    ),
}
"""What transformers 5.23 calls modules in memory where its files have older names, by `model_type`: (pattern,
replacement) pairs. Targets of a quantization are looked up in memory."""


def quantization_config(model_type: str, rules: Sequence[Rule], flat: Mapping[str, Any]) -> dict[str, Any]:
    """The `quantization_config` of config.json: a group of modules for each way they are packed.

    Raises UserError for a leaf that the format cannot express, and where nothing is quantized.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for rule in rules:
        if leaf := _packed(rule, flat):
            scheme = _integers(rule.paths[0], leaf)
            modules = [_in_memory(model_type, name.removesuffix(".weight")) for name in published_names(rule, flat)]
            groups.setdefault((scheme.bits, leaf.group), []).extend(modules)
    if not groups:
        raise UserError("no dense kernel is quantized; quantize with --scheme int4 or int8, or use --format hf")
    return dict(
        quant_method="compressed-tensors",
        format="pack-quantized",
        quantization_status="compressed",
        ignore=[],
        config_groups={
            f"group_{at}": dict(
                targets=modules,
                weights=dict(
                    num_bits=bits, type="int", symmetric=True, strategy="group", group_size=group, dynamic=False
                ),
                input_activations=None,
                output_activations=None,
            )
            for at, ((bits, group), modules) in enumerate(groups.items())
        },
    )


def save(rules: Sequence[Rule], flat: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Published (name, tensor) pairs: `weight_packed`, `weight_scale` and `weight_shape` of a packed module, the dense
    tensor of anything else.
    """
    for rule in rules:
        leaf = _packed(rule, flat)
        if leaf is None:
            dense = {path: x.materialize() if isinstance(x := flat[path], Leaf) else x for path in rule.paths}
            yield from mapping.save([rule], {**flat, **dense})
            continue
        for layer, name in enumerate(published_names(rule, flat)):
            one = _layer(leaf, layer) if rule.stacked else leaf
            yield from _module(name.removesuffix("weight"), one)


def _packed(rule: Rule, flat: Mapping[str, Any]) -> QTensor | None:
    """The leaf of a rule whose tensors are packed, None where they are dense."""
    leaf = flat[rule.paths[0]] if len(rule.paths) == 1 else None
    if not isinstance(leaf, QTensor) or not rule.name.endswith(".weight"):
        return None
    # transformers cannot open a packed embedding: its initialization looks for the dense weight.
    return leaf if rule.fn is TRANSPOSE and leaf.axis == -2 else None


def _in_memory(model_type: str, name: str) -> str:
    for old, new in MODULES.get(model_type, ()):
        name = re.sub(old, new, name)
    return name


def _integers(path: str, leaf: QTensor) -> Integers:
    scheme = SCHEMES[leaf.scheme]
    if not isinstance(scheme, Integers) or not scheme.symmetric:
        # compressed-tensors has zeros, but transformers 5.23 makes room for them unpacked and refuses packed ones.
        raise UserError(f"{path} is {leaf.scheme}, which compressed-tensors cannot pack; quantize to int4 or int8")
    if leaf.inner is not None:
        raise UserError(f"{path} scales its inputs (awq), which compressed-tensors does not have; use --format jvlm")
    return scheme


def _layer(leaf: QTensor, layer: int) -> QTensor:
    return jax.tree.map(lambda x: x[layer], leaf)


def _module(prefix: str, leaf: QTensor) -> Iterator[tuple[str, np.ndarray]]:
    """A kernel [in, out] as a module with a weight [out, in]; codes are stored plus 2^(bits - 1)."""
    bits = SCHEMES[leaf.scheme].bits
    middle = 2 ** (bits - 1)

    def turned(x: Any) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(x).T)

    codes = turned(leaf.codes).astype(np.int16) + middle
    yield f"{prefix}weight_packed", pack_words(codes, bits)
    yield f"{prefix}weight_scale", turned(leaf.scales().astype(leaf.dtype))
    yield f"{prefix}weight_shape", np.array(codes.shape, np.int64)
