"""PEFT directories outwards; `peft.py` reads them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.core.tree import flatten
from jvlm.interop import peft_config, safetensors
from jvlm.interop.peft import CONFIG, PREFIX, WEIGHTS, table_of
from jvlm.interop.peft_sites import Site, sites
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import variables_flat
from jvlm.interop.weights import write_json, write_whole
from jvlm.transforms.adapter_leaf import Adapter
from jvlm.transforms.adapters import adapter_names, innermost
from jvlm.transforms.ia3 import Ia3
from jvlm.transforms.lora import Lora


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes the one adapter of `pretrained` as a PEFT directory. UserError where PEFT has no form for it."""
    leaves = {p: leaf for p, leaf in flatten(pretrained.params).items() if isinstance(leaf, Adapter)}
    if not leaves:
        raise UserError("the model has no adapter to write; --format hf writes the model itself")
    kinds = {type(leaf) for leaf in leaves.values()}
    if len(names := adapter_names(pretrained.params)) > 1 or not kinds <= {Lora, Ia3} or len(kinds) > 1:
        what = f"adapters {names}" if len(names) > 1 else " and ".join(sorted(k.__name__ for k in kinds))
        raise UserError(f"PEFT has no form for {what}; --format hf writes the model with a linear adapter merged")
    if any(leaf.weight != 1.0 for leaf in leaves.values()):
        raise UserError("the adapter has another weight than 1, which PEFT does not store; merge it (--format hf)")
    flat = variables_flat({"params": pretrained.params, **pretrained.state})
    rules = list(table_of(pretrained).rules(pretrained.model))
    found, refused = sites(rules, flat)
    by_path: dict[str, list[Site]] = {}
    for site in found.values():
        by_path.setdefault(site.path, []).append(site)
    fused = {p: reason for r in rules for p in r.paths for reason in _reasons(r, flat, refused)}
    for ours in leaves:
        if ours not in by_path:
            raise UserError(
                f"{ours} has an adapter that PEFT cannot hold: {fused.get(ours, 'it has no published tensor')}; "
                "write the merged model (--format hf)"
            )
    biases, saved, extra = _extras(pretrained, rules, flat, {s.module for p in leaves for s in by_path[p]})
    write = _save_lora if kinds == {Lora} else _save_ia3
    config, tensors = write(leaves, by_path)
    if kinds == {Lora}:
        config["bias"] = biases
    elif biases != "none":
        raise UserError("PEFT's IA3 has no trained biases; write the merged model (--format hf)")
    modules = config.pop("modules")
    config = peft_config.written(modules=modules, saved=saved, **config)

    def fill(part: Path) -> None:
        write_json(part / CONFIG, config)
        named = [(PREFIX + name, np.ascontiguousarray(x)) for name, x in (tensors | extra).items()]
        safetensors.write(part, named, WEIGHTS)

    write_whole(path, fill)


def _reasons(r: mapping.Rule, flat: Mapping[str, Any], refused: Mapping[str, str]) -> list[str]:
    names = mapping.published_names(r, flat) if r.paths else []
    return [refused[name] for name in (n.removesuffix(".weight") for n in names) if name in refused][:1]


def _layers(leaf: Any, field: str, site: Site) -> np.ndarray:
    array = np.asarray(getattr(leaf, field))
    return array if site.layer is None else array[site.layer]


def _save_lora(leaves: Mapping[str, Any], by_path: Mapping[str, list[Site]]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, int | float] = {}
    dora = {leaf.magnitude is not None for leaf in leaves.values()}
    rslora = {leaf.rslora for leaf in leaves.values()}
    plain = {by_path[p][0].transposed for p in leaves}
    if len(dora) > 1 or len(rslora) > 1:
        raise UserError("PEFT has no form for LoRA with and without DoRA or rsLoRA in one adapter; merge it")
    for ours, leaf in leaves.items():
        for site in by_path[ours]:
            rank = leaf.ranks[site.layer or 0]
            if rank == 0:
                continue
            kernel = tuple(leaf.shape[1:] if site.layer is not None else leaf.shape)
            if len(kernel) == 4 and kernel[-2] == 1 and kernel[-1] > 1:
                raise UserError(f"{ours} is a convolution in groups, for which PEFT's LoRA is another one; merge it")
            a, b = _layers(leaf, "a", site)[..., :rank], _layers(leaf, "b", site)[:rank]
            first, second = site.save_factors(a, b)
            keys = site.factors()
            tensors |= {f"{site.module}.{keys[0]}": first, f"{site.module}.{keys[1]}": second}
            if True in dora:
                vector = site.save_vector(_layers(leaf, "magnitude", site), first)
                tensors[f"{site.module}.lora_magnitude_vector"] = vector
            alpha = leaf.alphas[site.layer or 0]
            ranks[site.module], alphas[site.module] = rank, int(alpha) if alpha == int(alpha) else alpha
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = dict(
        kind="LORA",
        modules=list(ranks),
        r=rank,
        lora_alpha=alpha,
        rank_pattern={module: r for module, r in ranks.items() if r != rank},
        alpha_pattern={module: x for module, x in alphas.items() if x != alpha},
        lora_dropout=max(leaf.dropout for leaf in leaves.values()),
        use_dora=True in dora,
        use_rslora=True in rslora,
        fan_in_fan_out=plain == {True},
    )
    return config, tensors


def _save_ia3(leaves: Mapping[str, Any], by_path: Mapping[str, list[Site]]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors: dict[str, np.ndarray] = {}
    feedforward: list[str] = []
    for ours, leaf in leaves.items():
        for site in by_path[ours]:
            if site.table:
                raise UserError(f"{ours} is a table, for which PEFT has no IA3; write the merged model (--format hf)")
            kernel = tuple(leaf.shape[1:] if site.layer is not None else leaf.shape)
            vector = _layers(leaf, "vector", site)
            channels = site.channels(kernel)
            if leaf.inputs and channels not in (None, vector.size):
                raise UserError(f"{ours}: gains of its inputs are not gains of channels, which PEFT has; merge it")
            shaped = (
                vector[None, :, None, None]
                if channels is not None
                else vector[None]
                if leaf.inputs
                else vector[:, None]
            )
            if leaf.inputs:
                feedforward.append(site.module)
            tensors[f"{site.module}.ia3_l"] = shaped
    modules = [name.removesuffix(".ia3_l") for name in tensors]
    config = dict(kind="IA3", modules=modules, feedforward_modules=sorted(feedforward), fan_in_fan_out=False)
    return config, tensors


def _extras(
    pretrained: Pretrained, rules: list[mapping.Rule], flat: Mapping[str, Any], targets: set[str]
) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """(PEFT's `bias`, its `modules_to_save`, their tensors) for what was trained beside the adapter."""
    trained = set(pretrained.trained)
    tensors: dict[str, np.ndarray] = {}
    biases = {r.name for r in rules if r.name.endswith("bias")}
    kept = [r for r in rules if set(r.paths) & trained]
    names: set[str] = set()
    for r in kept:
        if not set(r.paths) <= trained:
            raise UserError(f"{r.name} is trained in part only, for which PEFT has no form; merge it")
        arrays = [np.asarray(innermost(flat[p])) for p in r.paths]
        for index, name in enumerate(mapping.published_names(r, flat)):
            module, _, leaf = name.rpartition(".")
            value = r.fn.save(*(x[index] if r.stacked else x for x in arrays))
            tensors[f"{module}.base_layer.{leaf}" if module in targets else name] = value
            names.add(name)
    if not kept:
        return "none", [], {}
    if {r.name for r in kept} == biases:
        return "all", [], tensors
    if all(name.rpartition(".")[0] in targets and name.endswith(".bias") for name in names):
        return "lora_only", [], tensors
    modules = {name.rpartition(".")[0] for name in names}
    have = {name for r in rules if r.paths for name in mapping.published_names(r, flat)}
    for module in modules:
        missing = [name for name in have if name.rpartition(".")[0] == module and name not in names]
        if missing or module in targets or not module:
            raise UserError(f"{module} is trained in part only, for which PEFT has no form; merge it (--format hf)")
    return "none", sorted(modules), tensors
