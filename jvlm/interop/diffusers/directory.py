"""diffusers directories: a whole pipeline with `model_index.json`, or one model by itself."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jvlm import models
from jvlm.core.errors import UserError, nearest
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import FILES, Tokenizer, tokenizer_from_files
from jvlm.interop.diffusers import schedulers
from jvlm.interop.diffusers.component import Component, load_component, save_component, write_component
from jvlm.interop.diffusers.parts import FAMILY, parts
from jvlm.interop.diffusers.unet import VERSION
from jvlm.interop.hf import directory as hf
from jvlm.interop.hf import processor as hf_processor
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement, read_json, write_json, write_whole
from jvlm.losses.noise import Schedule

INDEX = "model_index.json"
PIPELINES = {
    "StableDiffusionPipeline": False,
    "StableDiffusionImg2ImgPipeline": False,
    "StableDiffusionInpaintPipeline": False,
    "StableDiffusionXLPipeline": True,
    "StableDiffusionXLImg2ImgPipeline": True,
    "StableDiffusionXLInpaintPipeline": True,
}
"""Pipelines that are read, and whether they have a second text encoder."""
_LIBRARIES = {
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of a diffusers directory: the whole of a pipeline as one module, or a component alone.

    Raises UserError naming the missing folder or file, or what jvlm lacks.
    """
    if not (path / INDEX).is_file():
        part = load_component(path, dtype=dtype, placement=placement)
        return Pretrained(part.model, part.params, {}, part.config, Processor(), dict(part.published))
    index = read_json(path / INDEX)
    kind = str(index.get("_class_name"))
    if kind not in PIPELINES:
        raise UserError(f"{path / INDEX}: the pipeline {kind!r} is unknown; {nearest(kind, PIPELINES)}")
    for name in _names(PIPELINES[kind]):
        if not (path / name).is_dir():
            raise UserError(f"{path / name} is missing; {kind} needs that folder, copy the directory again")
    found: dict[str, Any] = {
        name: load_component(path / name, dtype=dtype, placement=placement) for name in ("unet", "vae")
    }
    towers = dict(text="text_encoder", text_2="text_encoder_2") if PIPELINES[kind] else dict(text="text_encoder")
    found |= {ours: hf.load(path / name, dtype=dtype, placement=placement) for ours, name in towers.items()}
    scheduler = read_json(path / "scheduler" / schedulers.FILE)
    tokenizers = [_tokenizer(path / name.replace("text_encoder", "tokenizer")) for name in towers.values()]
    if len(tokenizers) > 1 and tokenizers[0][0].encode("a b") != tokenizers[1][0].encode("a b"):
        raise UserError(f"{path}: tokenizer and tokenizer_2 have different vocabularies; jvlm reads those with one")
    config = {
        "family": FAMILY,
        **{name: {key: value for key, value in part.config.items() if key != "family"} for name, part in found.items()},
        "schedule": asdict(schedulers.read(scheduler).schedule),
        "pads": [tokenizer.pad_id for tokenizer, _ in tokenizers],
        "zero_negative": bool(index.get("force_zeros_for_empty_prompt", PIPELINES[kind])),
    }
    model = models.create(config)
    published = {name: dict(part.published) for name, part in found.items()}
    published |= dict(index=index, scheduler=scheduler, tokenizer_2=tokenizers[-1][1] if PIPELINES[kind] else {})
    text = TextSpec(length=model.length, pad_id=tokenizers[0][0].pad_id)
    params = {name: part.params for name, part in found.items()}
    return Pretrained(model, params, {}, config, Processor(None, text, tokenizers[0][0]), published)


def _names(two: bool) -> list[str]:
    return [name for name in (*_LIBRARIES, "scheduler") if two or not name.endswith("_2")]


def _tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, bytes]]:
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    return tokenizer_from_files(files), files


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes a directory that diffusers opens, complete or not at all: a pipeline, or a component by itself.

    What jvlm does not run (a safety checker) is left out of the index. Adapters are merged; weights keep their dtype.
    """
    if pretrained.config["family"] != FAMILY:
        part = Component(pretrained.model, pretrained.params, pretrained.config, pretrained.published, pretrained.state)
        save_component(part, path)
        return
    write_whole(path, lambda part: _fill(pretrained, part))


def _fill(pretrained: Pretrained, path: Path) -> None:
    model, published = pretrained.model, pretrained.published
    two = model.text_2 is not None
    kind = "StableDiffusionXLPipeline" if two else "StableDiffusionPipeline"
    index: dict[str, Any] = {"_class_name": kind, "_diffusers_version": VERSION, **published.get("index", {})}
    index |= {name: list(_LIBRARIES[name]) for name in _LIBRARIES if two or not name.endswith("_2")}
    index |= {name: [None, None] for name in _UNUSED if name in index or not two}
    if two:
        index["force_zeros_for_empty_prompt"] = model.zero_negative
    else:
        index["requires_safety_checker"] = False
    for folder, own in parts(pretrained).items():
        if own.config["family"] == "clip-text":
            hf.save(own, path / folder)
        else:
            write_component(Component(own.model, own.params, own.config, own.published), path / folder)
    (path / "tokenizer").mkdir()
    hf_processor.write(path / "tokenizer", pretrained.processor, "clip")
    if two:
        _write_second_tokenizer(path, published.get("tokenizer_2") or {})
    scheduler = published.get("scheduler") or schedulers.config(Schedule(**dict(model.schedule)))
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (path / "scheduler").mkdir()
    write_json(path / "scheduler" / schedulers.FILE, scheduler)
    write_json(path / INDEX, index)


def _write_second_tokenizer(path: Path, files: Mapping[str, bytes]) -> None:
    """The source's own files, or those of the first tokenizer with SDXL's padding."""
    folder = path / "tokenizer_2"
    folder.mkdir()
    if not files:
        files = {file.name: file.read_bytes() for file in (path / "tokenizer").iterdir()}
        config = json.loads(files["tokenizer_config.json"]) | dict(pad_token="!")
        files = {**files, "tokenizer_config.json": json.dumps(config, indent=2).encode()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
