"""transformers' preprocessing files: `preprocessor_config.json` or `processor_config.json`, and the tokenizer's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jvlm.core.errors import UserError
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import BRIDGE_FOLDER, Processor, TextSpec
from jvlm.data.tokenizers import FILES, Tokenizer, tokenizer_from_files

_INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_DEFAULT_SIZE = {"clip": {"shortest_edge": 224}, "align": {"height": 289, "width": 289}}
# The classes whose name transformers needs to find the image processor, by model type.
_IMAGE_CLASS = {
    "clip": "CLIPImageProcessor",
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "vit": "ViTImageProcessor",
    "align": "EfficientNetImageProcessor",
}
_PROCESSOR_CLASS = {
    "clip": "CLIPProcessor",
    "siglip": "SiglipProcessor",
    "siglip2": "Siglip2Processor",
    "align": "AlignProcessor",
}


def read(directory: Path, model_type: str, length: int | None, image_size: tuple[int, int] | None) -> Processor:
    """The processor of a directory; parts whose files are missing are None.

    `length` is the text tower's number of positions, `image_size` the image tower's (height, width).
    """
    image = None
    if image_size is not None and (values := _image_values(directory)) is not None:
        image = image_spec(values, model_type, image_size)
    tokenizer = _tokenizer(directory)
    if length is None or tokenizer is None:
        return Processor(image=image)
    bridge = _tokenizer(directory / BRIDGE_FOLDER)
    return Processor(image, TextSpec(length=length, pad_id=tokenizer.pad_id), tokenizer, bridge)


def _tokenizer(directory: Path) -> Tokenizer | None:
    files = {name: (directory / name).read_bytes() for name in FILES if (directory / name).is_file()}
    told = ("_config.json", "_map.json", ".jinja", "chat_template.json")
    return tokenizer_from_files(files) if any(not name.endswith(told) for name in files) else None


def _image_values(directory: Path) -> dict[str, Any] | None:
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (directory / name).is_file():
            values = json.loads((directory / name).read_text())
            values = values.get("image_processor", values)
            if "image_processor_type" in values or "feature_extractor_type" in values or "image_mean" in values:
                return values
    return None


def image_spec(values: Mapping[str, Any], model_type: str, image_size: tuple[int, int]) -> ImageSpec:
    """An ImageSpec from transformers' fields. UserError names a value that jvlm does not implement."""
    clip_like = model_type == "clip"
    size = values.get("size", _DEFAULT_SIZE.get(model_type, {"height": image_size[0], "width": image_size[1]}))
    crop = values.get("do_center_crop", clip_like)
    target = _pair(values.get("crop_size", list(image_size))) if crop else image_size
    if not values.get("do_rescale", True) or not values.get("do_normalize", True):
        raise UserError("preprocessor_config.json turns do_rescale or do_normalize off; jvlm implements both on")
    # Fields as plain values, because `crop` is forced for a resize by the shorter side.
    fields: dict[str, Any] = dict(
        size=target,
        interpolation=_INTERPOLATION[values.get("resample", 3 if clip_like or model_type == "siglip" else 2)],
        rescale=values.get("rescale_factor", 1 / 255),
        mean=tuple(values["image_mean"]) if "image_mean" in values else (0.5, 0.5, 0.5),
        std=tuple(values["image_std"]) if "image_std" in values else (0.5, 0.5, 0.5),
    )
    if not values.get("do_resize", True):
        return ImageSpec(resize="none", crop=True, **fields)
    if isinstance(size, int) and clip_like:
        size = {"shortest_edge": size}
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return ImageSpec(resize="shortest", resize_to=size["shortest_edge"], crop=True, **fields)
    if model_type == "siglip2":
        # Naflex resizes to a number of patches; at fixed resolution that is the square the tower takes.
        size = {"height": image_size[0], "width": image_size[1]}
    return ImageSpec(resize="exact", resize_to=_pair(size), crop=crop, **fields)


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def image_values(spec: ImageSpec, model_type: str, patch_size: int | None = None) -> dict[str, Any]:
    """The inverse of `image_spec`: what transformers reads."""
    resample = next(code for code, name in _INTERPOLATION.items() if name == spec.interpolation)
    values: dict[str, Any] = dict(
        image_processor_type=_IMAGE_CLASS.get(model_type, "ViTImageProcessor"),
        do_resize=spec.resize != "none",
        resample=resample,
        do_rescale=True,
        rescale_factor=spec.rescale,
        do_normalize=True,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
        do_convert_rgb=True,
    )
    if spec.resize == "shortest":
        values["size"] = {"shortest_edge": spec.target[0]}
    else:
        values["size"] = {"height": spec.target[0], "width": spec.target[1]}
    values["do_center_crop"] = spec.crop
    if spec.crop:
        values["crop_size"] = {"height": spec.size[0], "width": spec.size[1]}
    if model_type == "siglip2" and patch_size:
        values["patch_size"] = patch_size
        values["max_num_patches"] = (spec.size[0] // patch_size) * (spec.size[1] // patch_size)
    return values


def write(directory: Path, processor: Processor, model_type: str, patch_size: int | None = None) -> None:
    """Writes the preprocessing files beside the weights; the tokenizer's are copied as they were read."""
    if processor.image is not None:
        values = image_values(processor.image, model_type, patch_size)
        if model_type in _PROCESSOR_CLASS:
            values["processor_class"] = _PROCESSOR_CLASS[model_type]
        (directory / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")
    if processor.tokenizer is not None and processor.text is not None:
        files = processor.files()
        for name, data in files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(data)
        if "tokenizer_config.json" not in files:
            config = _tokenizer_config(processor.tokenizer.kind, processor.text.length)
            (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _tokenizer_config(kind: str, length: int) -> dict[str, Any]:
    """For a tokenizer that came without one: the vocabulary that ships with jvlm."""
    if kind != "clip_bpe":
        raise UserError(f"a {kind} tokenizer without tokenizer_config.json has no transformers form")
    return dict(
        tokenizer_class="CLIPTokenizer",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=length,
        do_lower_case=True,
    )
