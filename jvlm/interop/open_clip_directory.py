"""open_clip directories, whole: configuration, weights and preprocessing; the vocabulary is that of CLIP."""

from pathlib import Path
from typing import Any

from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import FILES, clip_tokenizer, tokenizer_from_files
from jvlm.interop import safetensors
from jvlm.interop.open_clip import CONFIG, TABLE, WEIGHTS, preprocess
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement, limits, materialized, read_json, read_weights, write_json, write_whole


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of an open_clip directory; see `interop.directory.load_directory`."""
    config = read_json(path / CONFIG)
    reader = safetensors.SafetensorsReader(path, WEIGHTS, TABLE.renames)
    model, fields, variables = read_weights(TABLE, config, reader, dtype, placement)
    length, image_size = limits(model)
    files = {name: (path / name).read_bytes() for name in FILES if (path / name).is_file()}
    tokenizer = tokenizer_from_files(files, style="open_clip") if files else clip_tokenizer("open_clip")
    text = None if length is None else TextSpec(length=length, pad_id=tokenizer.pad_id)
    image = None if image_size is None else image_spec(preprocess(config), image_size)
    params = variables.pop("params")
    return Pretrained(model, params, variables, {"family": "clip", **fields}, Processor(image, text, tokenizer), config)


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
    if pretrained.config["family"] != "clip":
        raise UserError(f"family {pretrained.config['family']!r} has no open_clip format; use --format hf")
    config = TABLE.config(pretrained.model)
    if pretrained.processor.image is not None:
        config["preprocess_cfg"] = preprocess_cfg(pretrained.processor.image)
    _check_tokenizer(pretrained.processor)

    def fill(part: Path) -> None:
        write_json(part / CONFIG, config)
        safetensors.write(part, mapping.save(TABLE.rules(pretrained.model), materialized(pretrained)), WEIGHTS)

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
