"""LoRA files of text-to-image models: diffusers' `pytorch_lora_weights.safetensors`, and kohya's, which are only read.

The modules that a file names are looked up in the tables of the parts, so neither layout is written down here: kohya's
names are those of diffusers, or those of the original training code, with underscores for points.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jvlm.core.errors import UserError, nearest
from jvlm.interop import peft, peft_config, peft_write, safetensors
from jvlm.interop.diffusers.parts import FAMILY, joined, parts
from jvlm.interop.diffusers.single_file import original_rules
from jvlm.interop.peft_sites import sites
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import variables_flat
from jvlm.interop.weights import write_whole
from jvlm.transforms.adapters import adapter_names

FILE = "pytorch_lora_weights.safetensors"
_SETTINGS = "lora_adapter_metadata"
# What a factor was called, the newest layout last; a text tower's projections had the UNet's names once.
_OLDER = (
    (r"\.processor\.", "."),
    (r"\.to_out_lora\.", ".to_out.0.lora."),
    (r"\.to_([qkv])_lora\.", r".to_\1.lora."),
    (r"\.(lora|lora_linear_layer)\.down\.", ".lora_A."),
    (r"\.(lora|lora_linear_layer)\.up\.", ".lora_B."),
)
_OLDER_TEXT = ((r"\.to_out\.0\.", ".out_proj."), (r"\.to_([qkv])\.", r".\1_proj."))
_KOHYA = dict(unet=("lora_unet_",), text_encoder=("lora_te_", "lora_te1_"), text_encoder_2=("lora_te2_",))
_FACTORS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}


def load(path: Path, base: Pretrained, name: str = "default") -> Pretrained:
    """`base` with the adapter of the file `path` on its UNet and text towers, called `name`.

    Without settings in its header a module's update is the product of its factors, unless kohya's alphas say more.
    UserError names a tensor that has no place in the model and what jvlm does not read.
    """
    if base.config["family"] != FAMILY:
        raise UserError(
            f"{path} is a LoRA of a text-to-image model, the model is of the family {base.config['family']!r}"
        )
    reader = safetensors.SafetensorsReader(path.parent, path.name)
    tensors = {key: reader.read(key) for key in reader.names()}
    known = parts(base)
    if any(key.startswith("lora_") for key in tensors):
        read, settings = _of_kohya(tensors, known, path), {}
    else:
        read = _of_diffusers(tensors, known, path)
        settings = json.loads(reader.metadata.get(_SETTINGS) or "{}")
    changed: dict[str, Pretrained] = {}
    for folder, (modules, alphas) in read.items():
        own = {key.removeprefix(f"{folder}."): x for key, x in settings.items() if key.startswith(f"{folder}.")}
        config = dict(peft_type="LORA", **_scales(modules, alphas)) | own
        peft_config.check(config, path)
        changed[folder] = peft.adapted(known[folder], modules, {}, config, path, name)
    return joined(base, changed)


Read = dict[str, tuple[peft.Parts, dict[str, float]]]
"""By folder: the factors of every module, and the alphas that are said."""


def _of_diffusers(tensors: Mapping[str, np.ndarray], known: Mapping[str, Pretrained], path: Path) -> Read:
    own: dict[str, dict[str, np.ndarray]] = {}
    for key, array in tensors.items():
        folder, _, name = key.partition(".")
        if folder not in known:
            raise UserError(f"{path}: {key} belongs to no part of the model; {nearest(folder, known)}")
        for old, new in (*_OLDER, *(_OLDER_TEXT if folder.startswith("text") else ())):
            name = re.sub(old, new, name)
        for old, new in peft.table_of(known[folder]).renames:
            name = re.sub(old, new, name)
        own.setdefault(folder, {})[name] = array
    read: Read = {}
    for folder, arrays in own.items():
        modules, plain = peft.by_module(arrays)
        if plain:
            raise UserError(
                f"{path}: {folder}.{next(iter(plain))} is no factor of a LoRA; convert the file in diffusers"
            )
        read[folder] = modules, {}
    return read


def _of_kohya(tensors: Mapping[str, np.ndarray], known: Mapping[str, Pretrained], path: Path) -> Read:
    places = {old: (folder, module) for folder, part in known.items() for old, module in kohya_names(folder, part)}
    read: Read = {}
    for key, array in tensors.items():
        stem, _, last = key.partition(".")
        if stem not in places:
            raise UserError(f"{path}: {stem} belongs to no part of the model; {nearest(stem, places)}")
        folder, module = places[stem]
        modules, alphas = read.setdefault(folder, ({}, {}))
        if last == "alpha":
            alphas[module] = float(array)
        elif last in _FACTORS:
            modules.setdefault(module, {})[_FACTORS[last]] = array
        else:
            raise UserError(f"{path}: {key} is no factor of a plain LoRA, which is all of kohya's that jvlm reads")
    return read


def kohya_names(folder: str, part: Pretrained) -> Iterable[tuple[str, str]]:
    """(name in a file of kohya, module) of everything in a part that can take an adapter."""
    flat = variables_flat({"params": part.params, **part.state})
    found = sites(peft.table_of(part).rules(part.model), flat)[0]
    others = list(found)
    if folder == "unet":
        others = list(sites(original_rules(part.model), flat)[0])
    elif folder == "text_encoder":
        others = [f"text_model.{module}" for module in found]
    for names in (found, others):
        for start in _KOHYA.get(folder, ()):
            yield from ((start + name.replace(".", "_"), module) for name, module in zip(names, found, strict=True))


def _scales(modules: peft.Parts, alphas: Mapping[str, float]) -> dict[str, Any]:
    """PEFT's settings of factors: their ranks, and an alpha for each, its rank where none is said."""
    first = "lora_A.weight"
    ranks = {module: int(arrays[first].shape[0]) for module, arrays in modules.items() if first in arrays}
    each = {module: alphas.get(module, float(rank)) for module, rank in ranks.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] if values else 1 for values in (ranks, each))
    return dict(
        r=rank,
        lora_alpha=alpha,
        rank_pattern={re.escape(module): r for module, r in ranks.items() if r != rank},
        alpha_pattern={re.escape(module): a for module, a in each.items() if a != alpha},
        use_dora=any("lora_magnitude_vector" in arrays for arrays in modules.values()),
    )


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes a folder with the one LoRA of `pretrained` as `load_lora_weights` of diffusers opens it.

    UserError for another kind of adapter, one of the autoencoder, and what was trained beside it.
    """
    tensors: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = {}
    for folder, (config, arrays) in settled(pretrained).items():
        if config["peft_type"] != "LORA" or folder == "vae" or config["modules_to_save"] or config["bias"] != "none":
            raise UserError(f"a LoRA file of diffusers has no form for what was trained of {folder}; --format peft has")
        settings |= {f"{folder}.{key}": value for key, value in config.items()}
        for name, array in arrays.items():
            # diffusers tells a text tower's layout by these names, also where no projection is adapted.
            if folder.startswith("text"):
                name = name.replace(".lora_A.", ".lora_linear_layer.down.").replace(
                    ".lora_B.", ".lora_linear_layer.up."
                )
            tensors[f"{folder}.{name}"] = np.ascontiguousarray(array)
    header = {_SETTINGS: json.dumps(settings, indent=2, sort_keys=True)}

    def fill(part: Path) -> None:
        safetensors.write(part, tensors.items(), FILE, metadata=header)

    write_whole(path, fill)


def save_peft(pretrained: Pretrained, path: Path) -> None:
    """Writes a folder with a PEFT directory for every part that has an adapter, by the names of diffusers' folders."""
    found = settled(pretrained)

    def fill(whole: Path) -> None:
        for folder, (config, arrays) in found.items():
            (whole / folder).mkdir()
            peft_write.fill(whole / folder, config, arrays)

    write_whole(path, fill)


def settled(pretrained: Pretrained) -> dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """PEFT's settings and tensors of the adapter on each part, by folder."""
    if not adapter_names(pretrained.params):
        raise UserError("the model has no adapter to write; --format diffusers writes the model itself")
    out = {}
    for folder, part in parts(pretrained).items():
        if adapter_names(part.params):
            out[folder] = peft_write.settled(part)
        elif part.trained:
            raise UserError(f"{folder}: {part.trained[0]} is trained and nothing there has an adapter; merge it")
    return out
