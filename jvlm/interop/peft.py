"""PEFT directories inwards: `adapter_config.json` and `adapter_model.safetensors`, keyed by a family's own table."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jvlm.core import mapping
from jvlm.core.errors import UserError, nearest
from jvlm.core.tree import unflatten
from jvlm.interop import peft_config, peft_prompts, safetensors
from jvlm.interop.diffusers import TABLES as COMPONENTS
from jvlm.interop.diffusers.component import Component
from jvlm.interop.diffusers.component import table_of as component_table
from jvlm.interop.hf import TABLES, kind_of
from jvlm.interop.peft_sites import Site, sites
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import Table, variables_flat
from jvlm.interop.weights import read_json
from jvlm.transforms.adapter_leaf import kernel_of
from jvlm.transforms.adapters import adapter_names, innermost, put_on
from jvlm.transforms.ia3 import Ia3
from jvlm.transforms.lora import Lora, column_norm
from jvlm.transforms.lora_method import lora_scale

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_KEY = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_[AB]|lora_magnitude_vector|ia3_l)")
Parts = dict[str, dict[str, np.ndarray]]
Layers = Mapping[int | None, tuple[Site, dict[str, np.ndarray]]]
"""What a directory holds for one kernel: by layer, None outside of stacks."""


def table_of(pretrained: Pretrained) -> Table:
    """The table of a model: transformers' of the source's own kind or the first one of its family, or diffusers'."""
    family = pretrained.config["family"]
    own = kind_of(pretrained.published)
    kinds = [name for name, table in TABLES.items() if table.family == family]
    if kinds:
        return TABLES[own if own in kinds else kinds[0]]
    if family not in {table.family for table in COMPONENTS.values()}:
        raise UserError(f"family {family!r} has no format of transformers or diffusers, so it has none of PEFT either")
    return component_table(Component(pretrained.model, {}, pretrained.config))


def load(path: Path, base: Pretrained, name: str = "default") -> Pretrained:
    """`base` with the adapter of the PEFT directory `path` on it, called `name`.

    UserError names a setting that jvlm does not implement and a tensor that has no place in the model.
    """
    config = read_json(path / CONFIG)
    peft_config.check(config, path / CONFIG)
    parts, plain = _read(path, table_of(base))
    if (kind := config["peft_type"]) in peft_prompts.KINDS:
        check_name(base, name)
        learned = peft_prompts.read(kind, plain, base, path / WEIGHTS)
        named = {ours: leaf.replace(name=name) for ours, leaf in learned.items()}
        return replace(base, params=put_on(base.params, unflatten(named)))
    return adapted(base, parts, plain, config, path / WEIGHTS, name)


def names_modules_of(path: Path, part: Pretrained) -> bool:
    """Whether every module that the PEFT directory `path` names is one of `part`."""
    table = table_of(part)
    at, _ = sites(table.rules(part.model), variables_flat({"params": part.params, **part.state}))
    return set(_read(path, table)[0]) <= set(at)


def check_name(base: Pretrained, name: str) -> None:
    """UserError where an adapter of `base` is called `name` already."""
    if name in adapter_names(base.params):
        raise UserError(f"the model already has an adapter called {name!r}; give this one another name")


def adapted(
    base: Pretrained, parts: Parts, plain: Mapping[str, np.ndarray], config: Mapping[str, Any], where: Path, name: str
) -> Pretrained:
    """`base` with LoRA or (IA)3 of the arrays `parts`, by module, and the tensors `plain` in place of its own.

    `config` has PEFT's settings; `where` is the file that they were read from, for errors.
    """
    check_name(base, name)
    flat = variables_flat({"params": base.params, **base.state})
    rules = list(table_of(base).rules(base.model))
    at, refused = sites(rules, flat)
    leaves: dict[str, Any] = {}
    grouped: dict[str, dict[int | None, tuple[Site, dict[str, np.ndarray]]]] = {}
    for module, arrays in parts.items():
        if module not in at:
            reason = refused.get(module) or nearest(module, at)
            raise UserError(f"{where}: {module} cannot take an adapter: {reason}")
        site = at[module]
        if site.path.endswith("token_embed/embedding") and getattr(base.model, "tied", False):
            raise UserError(
                f"{where}: {module} is also the model's head, which PEFT adapts apart; merge it there first"
            )
        for part in site.parts():
            grouped.setdefault(part.path, {})[part.layer] = (part, arrays)
    replaced = _replaced(plain, rules, flat, where)
    # PEFT saves the layer under the adapter of an embedding or a head, too: that is the base, and not trained.
    under = {ours: replaced.pop(ours) for ours in grouped if ours in replaced}
    flat |= under
    for ours, layers in grouped.items():
        build = _lora if config["peft_type"] == "LORA" else _ia3
        leaves[ours] = build(flat[ours], layers, config).replace(name=name)
    params = put_on(put_on(base.params, unflatten(under)), unflatten(leaves | replaced))
    return replace(base, params=params, trained=(*base.trained, *replaced))


def _read(path: Path, table: Table) -> tuple[Parts, dict[str, np.ndarray]]:
    """(adapter arrays by module, other tensors by published name)."""
    reader = safetensors.SafetensorsReader(
        path, WEIGHTS, renames=((rf"^{re.escape(PREFIX)}", ""), *table.renames, (r"\.base_layer\.", "."))
    )
    return by_module({key: reader.read(key) for key in reader.names()})


def by_module(tensors: Mapping[str, np.ndarray]) -> tuple[Parts, dict[str, np.ndarray]]:
    """(adapter arrays by module, other tensors by name) of tensors with PEFT's names."""
    parts: Parts = {}
    plain: dict[str, np.ndarray] = {}
    for key, array in tensors.items():
        if match := _KEY.fullmatch(key):
            parts.setdefault(match[1], {})[match[2]] = array
        else:
            plain[key] = array
    return parts, plain


def _lora(
    base: Any, layers: Mapping[int | None, tuple[Site, dict[str, np.ndarray]]], config: Mapping[str, Any]
) -> Lora:
    shape = tuple(base.shape)
    depth, kernel = (1, shape) if None in layers else (shape[0], shape[1:])
    dora, rslora = bool(config.get("use_dora")), bool(config.get("use_rslora"))
    factors: list[tuple[np.ndarray, np.ndarray] | None] = [None] * depth
    ranks, alphas = [0] * depth, [0.0] * depth
    magnitudes: list[np.ndarray | None] = [None] * depth
    for layer, (site, arrays) in layers.items():
        k = layer or 0
        wanted = set(site.factors()) | ({"lora_magnitude_vector"} if dora else set())
        if set(arrays) != wanted:
            odd = sorted(wanted ^ set(arrays))[0]
            raise UserError(f"{site.module}: {odd} is {'missing' if odd in wanted else 'more than the settings say'}")
        a, b = (arrays[key].astype(np.float32) for key in site.factors())
        factors[k] = pair = site.load_factors(a, b)
        sizes = (*pair[0].shape[:-1], pair[1].shape[-1])
        if sizes != kernel:
            raise UserError(f"{site.module}: an adapter of {list(sizes)} for a kernel {list(kernel)}: of another model")
        ranks[k] = pair[1].shape[0]
        said = peft_config.pattern_value(config.get("rank_pattern") or {}, site.module, config["r"])
        if ranks[k] != said:
            raise UserError(f"{site.module}: the rank is {ranks[k]}, but the settings say {said}")
        alphas[k] = peft_config.pattern_value(config.get("alpha_pattern") or {}, site.module, config["lora_alpha"])
        magnitudes[k] = site.own(arrays["lora_magnitude_vector"].reshape(-1).astype(np.float32)) if dora else None
    rank = max(ranks)
    a = np.zeros((depth, *kernel[:-1], rank), np.float32)
    b = np.zeros((depth, rank, kernel[-1]), np.float32)
    for k, pair in enumerate(factors):
        if pair is not None:
            a[k, ..., : ranks[k]], b[k, : ranks[k]] = pair
    scale = np.asarray([lora_scale(r, alpha, rslora) for r, alpha in zip(ranks, alphas)], np.float32)
    magnitude = None
    if dora:
        # A layer without an adapter keeps the lengths that it has.
        own = np.asarray(column_norm(kernel_of(base).astype(jnp.float32), int(None not in layers))).reshape(depth, -1)
        magnitude = np.stack([own[k] if m is None else m for k, m in enumerate(magnitudes)])
    fields: dict[str, Any] = dict(ranks=tuple(ranks), alphas=tuple(map(float, alphas)), rslora=rslora)
    fields["dropout"] = float(config.get("lora_dropout") or 0.0)
    arrays = [None if x is None else jnp.asarray(x[0] if None in layers else x) for x in (a, b, scale, magnitude)]
    a, b, scale, magnitude = arrays
    return Lora(None, a, b, scale, magnitude, **fields)


def _ia3(base: Any, layers: Layers, config: Mapping[str, Any]) -> Ia3:
    shape = tuple(base.shape)
    stacked = None not in layers
    kernel = shape[1:] if stacked else shape
    site, first = next(iter(layers.values()))
    wide = first["ia3_l"].shape
    inputs = (len(wide) == 2 and wide[0] == 1) or _feedforward(site.module, config)
    if inputs and site.channels(kernel) not in (None, kernel[-2]):
        raise UserError(f"{site.module}: gains of a patch embedding's channels are no gains of its inputs")
    size = kernel[-2] if inputs else kernel[-1]
    vector = np.ones((shape[0] if stacked else 1, size), np.float32)
    for layer, (site, arrays) in layers.items():
        gains = arrays["ia3_l"].reshape(-1)
        vector[layer or 0] = gains if inputs else site.own(gains)
    return Ia3(None, jnp.asarray(vector if stacked else vector[0]), inputs=inputs)


def _feedforward(module: str, config: Mapping[str, Any]) -> bool:
    given = config.get("feedforward_modules") or []
    if isinstance(given, str):
        return re.fullmatch(given, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in given)


def _replaced(
    plain: Mapping[str, np.ndarray], rules: list[mapping.Rule], flat: Mapping[str, Any], where: Path
) -> dict[str, Any]:
    """Parameters of ours that tensors outside the adapter (biases, saved modules) take the place of."""
    left = dict(plain)
    out: dict[str, Any] = {}
    for r in rules:
        names = mapping.published_names(r, flat) if r.paths else []
        given = [name for name in names if name in left]
        if not given:
            continue
        for position, path in enumerate(r.paths):
            whole = np.array(innermost(flat[path]), np.float32)
            for index, name in enumerate(names):
                if name in left:
                    value = r.fn.load(left[name])[position]
                    whole[index if r.stacked else ...] = value
            out[path] = jnp.asarray(whole)
        for name in given:
            del left[name]
    if left:
        raise UserError(f"{where}: {next(iter(left))} has no place in the model")
    return out
