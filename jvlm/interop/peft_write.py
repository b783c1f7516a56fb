"""PEFT directories outwards; `peft.py` reads them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.core.tree import flatten
from jvlm.interop import peft_config, peft_prompts, safetensors
from jvlm.interop.peft import CONFIG, PREFIX, WEIGHTS, table_of
from jvlm.interop.peft_sites import Site, sites
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import variables_flat
from jvlm.interop.weights import write_json, write_whole
from jvlm.transforms.adapter_leaf import Adapter
from jvlm.transforms.adapters import adapter_names, innermost
from jvlm.transforms.ia3 import Ia3
from jvlm.transforms.lora import Lora
from jvlm.transforms.lora_method import lora_scale

LEARNED = set(peft_prompts.KINDS.values())


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes the one adapter of `pretrained` as a PEFT directory. UserError where PEFT has no form for it."""
    config, tensors = settled(pretrained)
    write_whole(path, lambda part: fill(part, config, tensors))


def fill(path: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Puts both files of a PEFT directory into the folder `path`."""
    prefix = "" if set(tensors) == {peft_prompts.TENSOR} else PREFIX
    write_json(path / CONFIG, config)
    safetensors.write(path, [(prefix + name, np.ascontiguousarray(x)) for name, x in tensors.items()], WEIGHTS)


def settled(pretrained: Pretrained) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(PEFT's settings, tensors by name) of the one adapter of `pretrained`. UserError where PEFT has none for it."""
    leaves = {p: leaf for p, leaf in flatten(pretrained.params).items() if isinstance(leaf, Adapter)}
    if not leaves:
        raise UserError("the model has no adapter to write; --format hf writes the model itself")
    kinds = {type(leaf) for leaf in leaves.values()}
    if len(names := adapter_names(pretrained.params)) > 1 or not kinds <= {Lora, Ia3, *LEARNED} or len(kinds) > 1:
        what = f"adapters {names}" if len(names) > 1 else " and ".join(sorted(k.__name__ for k in kinds))
        raise UserError(f"PEFT has no form for {what}; --format hf writes the model with a linear adapter merged")
    if any(leaf.weight != 1.0 for leaf in leaves.values()):
        raise UserError("the adapter has another weight than 1, which PEFT does not store; merge it (--format hf)")
    if kinds <= LEARNED:
        if pretrained.trained:
            raise UserError(f"{pretrained.trained[0]} is trained beside the prompt, for which PEFT has no form")
        return peft_prompts.write(leaves, pretrained)
    flat = variables_flat({"params": pretrained.params, **pretrained.state})
    rules = list(table_of(pretrained).rules(pretrained.model))
    found, refused = sites(rules, flat)
    by_path: dict[str, list[Site]] = {}
    for site in (part for module in found.values() for part in module.parts()):
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
    return peft_config.written(modules=modules, saved=saved, **config), tensors | extra


def _reasons(r: mapping.Rule, flat: Mapping[str, Any], refused: Mapping[str, str]) -> list[str]:
    names = mapping.published_names(r, flat) if r.paths else []
    return [refused[name] for name in (n.removesuffix(".weight") for n in names) if name in refused][:1]


def _layers(leaf: Any, field: str, site: Site) -> np.ndarray:
    array = np.asarray(getattr(leaf, field))
    return array if site.layer is None else array[site.layer]


Parts = list[tuple[Site, Any]]
"""The kernels of one published module that have an adapter: several where it is fused."""


def _by_module(leaves: Mapping[str, Any], by_path: Mapping[str, list[Site]]) -> dict[str, Parts]:
    out: dict[str, Parts] = {}
    for ours, leaf in leaves.items():
        for site in by_path[ours]:
            out.setdefault(site.module, []).append((site, leaf))
    return out


def _save_lora(leaves: Mapping[str, Any], by_path: Mapping[str, list[Site]]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, int | float] = {}
    dora = {leaf.magnitude is not None for leaf in leaves.values()}
    rslora = {leaf.rslora for leaf in leaves.values()}
    plain = {by_path[p][0].transposed for p in leaves}
    if len(dora) > 1 or len(rslora) > 1:
        raise UserError("PEFT has no form for LoRA with and without DoRA or rsLoRA in one adapter; merge it")
    for module, parts in _by_module(leaves, by_path).items():
        parts = [(site, leaf) for site, leaf in parts if leaf.ranks[site.layer or 0]]
        if not parts:
            continue
        site = parts[0][0]
        first, second, rank, alpha = _factors(parts, True in rslora)
        keys = site.factors()
        tensors |= {f"{module}.{keys[0]}": first, f"{module}.{keys[1]}": second}
        if True in dora:
            if len(parts) < len(site.paths):
                raise UserError(f"{module} holds {len(site.paths)} kernels, of which DoRA has to be on all; merge it")
            magnitude = np.concatenate([_layers(leaf, "magnitude", s) for s, leaf in parts])
            tensors[f"{module}.lora_magnitude_vector"] = site.save_vector(magnitude, first)
        ranks[module], alphas[module] = rank, int(alpha) if alpha == int(alpha) else alpha
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


def _factors(parts: Parts, rslora: bool) -> tuple[np.ndarray, np.ndarray, int, float]:
    """(peft's A, its B, rank, alpha) of one module.

    A fused module has one A for all of its kernels. Where ours have an A each they stand above each other, and B has a
    block for each kernel: the same update at the sum of the ranks.
    """
    found = []
    for site, leaf in parts:
        rank = leaf.ranks[site.layer or 0]
        kernel = tuple(leaf.shape[1:] if site.layer is not None else leaf.shape)
        if len(kernel) == 4 and kernel[-2] == 1 and kernel[-1] > 1:
            raise UserError(f"{site.path} is a convolution in groups, for which PEFT's LoRA is another one; merge it")
        a, b = _layers(leaf, "a", site)[..., :rank], _layers(leaf, "b", site)[:rank]
        found.append((site, a, b, rank, leaf.alphas[site.layer or 0]))
    site, a, b, rank, alpha = found[0]
    if not site.fused:
        return *site.save_factors(a, b), rank, alpha
    same = all(np.array_equal(a, other) and (rank, alpha) == tuple(rest) for _, other, _, *rest in found)
    if same and len(found) == len(site.paths):
        return a.T, np.concatenate([b.T for _, _, b, *_ in found]), rank, alpha
    total, scale = sum(r for *_, r, _ in found), lora_scale(rank, alpha, rslora)
    outputs = b.shape[1]
    fused = np.zeros((outputs * len(site.paths), total), np.float32)
    start = 0
    for part, _, own, r, x in found:
        rows = slice(part.block * outputs, (part.block + 1) * outputs)
        fused[rows, start : start + r] = own.T * (lora_scale(r, x, rslora) / scale)
        start += r
    above = np.concatenate([a.T for _, a, *_ in found])
    return above, fused, total, scale / lora_scale(total, 1.0, rslora)


def _save_ia3(leaves: Mapping[str, Any], by_path: Mapping[str, list[Site]]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors: dict[str, np.ndarray] = {}
    feedforward: list[str] = []
    for module, parts in _by_module(leaves, by_path).items():
        site, leaf = parts[0]
        if site.table:
            raise UserError(f"{site.path} is a table, for which PEFT has no IA3; write the merged model (--format hf)")
        kernel = tuple(leaf.shape[1:] if site.layer is not None else leaf.shape)
        vector, channels = _gains(parts), site.channels(kernel)
        if leaf.inputs and channels not in (None, vector.size):
            raise UserError(f"{site.path}: gains of its inputs are not gains of channels, which PEFT has; merge it")
        shaped = (
            vector[None, :, None, None] if channels is not None else vector[None] if leaf.inputs else vector[:, None]
        )
        if leaf.inputs:
            feedforward.append(module)
        tensors[f"{module}.ia3_l"] = shaped
    modules = [name.removesuffix(".ia3_l") for name in tensors]
    config = dict(kind="IA3", modules=modules, feedforward_modules=sorted(feedforward), fan_in_fan_out=False)
    return config, tensors


def _gains(parts: Parts) -> np.ndarray:
    """The gains of one module; a kernel of a fused one that has no adapter has gains of 1."""
    site = parts[0][0]
    found = {part.block: _layers(leaf, "vector", part) for part, leaf in parts}
    vector = found[site.block]
    if not site.fused:
        return vector
    if {leaf.inputs for _, leaf in parts} != {False}:
        raise UserError(f"{site.path}: gains of the inputs of one kernel in a fused module; PEFT has no form, merge it")
    return np.concatenate([found.get(block, np.ones_like(vector)) for block in range(len(site.paths))])


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
