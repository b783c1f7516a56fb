"""open_clip directories, whole: configuration, weights, preprocessing, and for SigLIP the tokenizer's files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import FILES, Tokenizer, clip_tokenizer, tokenizer_from_files
from jvlm.interop import open_clip, open_clip_siglip, safetensors
from jvlm.interop.hf import processor as hf_processor
from jvlm.interop.open_clip import CONFIG, WEIGHTS, preprocess
from jvlm.interop.open_clip_siglip import is_siglip
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement, limits, materialized, read_json, read_weights, write_json, write_whole

TABLES = {table.family: table for table in (open_clip.TABLE, open_clip_siglip.TABLE)}


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of an open_clip directory; see `interop.directory.load_directory`."""
    config = read_json(path / CONFIG)
    table = TABLES["siglip" if is_siglip(config) else "clip"]
    reader = safetensors.SafetensorsReader(path, WEIGHTS, table.renames)
    model, fields, variables = read_weights(table, config, reader, dtype, placement)
    length, image_size = limits(model)
    tokenizer = _tokenizer(path, config["model_cfg"]["text_cfg"])
    text = None if length is None or tokenizer is None else TextSpec(length=length, pad_id=tokenizer.pad_id)
    image = None if image_size is None else image_spec(preprocess(config), image_size)
    params = variables.pop("params")
    fields = {"family": table.family, **fields}
    return Pretrained(model, params, variables, fields, Processor(image, text, tokenizer), config)


def _tokenizer(path: Path, text: Mapping[str, Any]) -> Tokenizer | None:
    """As open_clip chooses it: the directory's own files where it names a tokenizer, else CLIP's."""
    files = {name: (path / name).read_bytes() for name in FILES if (path / name).is_file()}
    if not text.get("hf_tokenizer_name"):
        return tokenizer_from_files(files, style="open_clip") if files else clip_tokenizer("open_clip")
    clean = (text.get("tokenizer_kwargs") or {}).get("clean", "")
    return tokenizer_from_files(files, style="open_clip", clean=clean) if files else None


def image_spec(values: dict[str, Any], image_size: tuple[int, int]) -> ImageSpec:
    """An ImageSpec from `preprocess_cfg`. UserError names a resize mode that jvlm does not implement."""
    mode = values["resize_mode"]
    if mode not in ("shortest", "squash"):
        raise UserError(f"{CONFIG} has resize_mode = {mode!r}; jvlm implements shortest and squash")
    return ImageSpec(
        size=image_size,
        resize="shortest" if mode == "shortest" else "exact",
        crop=mode == "shortest",
        interpolation=values["interpolation"],
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        style="open_clip",
    )


def preprocess_cfg(spec: ImageSpec) -> dict[str, Any]:
    """The inverse of `image_spec`. UserError for a preprocessing that open_clip does not have."""
    side = min(spec.size)
    if spec.resize == "none" or (spec.resize == "shortest" and spec.target[0] != side):
        raise UserError(f"open_clip resizes to the size it crops ({side}), this model to {spec.resize} {spec.target}")
    if spec.resize == "exact" and spec.target != spec.size:
        raise UserError(
            f"open_clip squashes to the model's size {spec.size}, this model's preprocessing to {spec.target}"
        )
    return dict(
        size=list(spec.size) if spec.size[0] != spec.size[1] else spec.size[0],
        mode="RGB",
        mean=list(spec.mean),
        std=list(spec.std),
        interpolation=spec.interpolation,
        resize_mode="shortest" if spec.resize == "shortest" else "squash",
        fill_color=0,
    )


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes an open_clip directory that `open_clip.create_model("local-dir:...")` opens.

    Raises UserError for a model, a preprocessing or a tokenizer that open_clip cannot express.
    """
    family, processor = pretrained.config["family"], pretrained.processor
    if family not in TABLES:
        raise UserError(f"family {family!r} has no open_clip format; use --format hf")
    table = TABLES[family]
    config = table.config(pretrained.model)
    if processor.image is not None:
        config["preprocess_cfg"] = preprocess_cfg(processor.image)
    # With files of its own open_clip asks transformers for the tokenizer that the directory holds.
    own = family == "siglip" and processor.tokenizer is not None and processor.tokenizer.kind != "clip_bpe"
    if own:
        config["model_cfg"]["text_cfg"] |= dict(hf_tokenizer_name=".", tokenizer_kwargs=dict(clean="canonicalize"))
    else:
        _check_tokenizer(processor)
        if family == "siglip" and processor.text is not None and processor.text.pad_id:
            raise UserError(
                f"open_clip fills up texts with 0, this model with {processor.text.pad_id}; use --format hf"
            )

    def fill(part: Path) -> None:
        write_json(part / CONFIG, config)
        safetensors.write(part, mapping.save(table.rules(pretrained.model), materialized(pretrained)), WEIGHTS)
        if own:
            hf_processor.write(part, replace(processor, image=None), family)

    write_whole(path, fill)


def _check_tokenizer(processor: Processor) -> None:
    """open_clip brings CLIP's vocabulary itself; another one it would look for on a hub."""
    own = clip_tokenizer("transformers")
    tokenizer = processor.tokenizer
    if tokenizer is None:
        return
    same = tokenizer.kind == own.kind and tokenizer.vocab_size == own.vocab_size
    probe = "a photo of 3 cats, naïve & über-cute!"
    if not same or tokenizer.encode(probe) != own.encode(probe):
        raise UserError("open_clip opens a directory with CLIP's published vocabulary only; use --format hf")
