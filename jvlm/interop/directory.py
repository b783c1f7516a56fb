"""Published model directories, by format: which one a path holds, and how it is read and written."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jvlm.core.errors import UserError
from jvlm.interop import big_vision, gguf_model, native, open_clip, open_clip_directory
from jvlm.interop.diffusers import TABLES as COMPONENTS
from jvlm.interop.diffusers import directory as diffusers
from jvlm.interop.diffusers import single_file
from jvlm.interop.diffusers.component import holds_component
from jvlm.interop.diffusers.parts import FAMILY
from jvlm.interop.hf import directory as hf
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement

WRITERS: dict[str, Callable[[Pretrained, Path], None]] = {
    "hf": hf.save,
    "diffusers": diffusers.save,
    "open_clip": open_clip_directory.save,
    "compressed-tensors": functools.partial(hf.save, packed=True),
}
"""Formats that are written; `hf` is transformers', `diffusers` a pipeline or one model, `compressed-tensors` that of
transformers with quantized kernels packed."""


def format_of(family: str) -> str:
    """The format that a family's own directories have, `hf` or `diffusers`."""
    return "diffusers" if family == FAMILY or family in {table.family for table in COMPONENTS.values()} else "hf"


def load_directory(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of a transformers, diffusers or open_clip directory, of a folder with one `.gguf`, or of a file.

    A file is a big_vision `.npz` or a `.safetensors` with a whole Stable Diffusion.

    `dtype` None keeps what is stored. With `placement` (mesh, sharding rules) every host reads only its own shards.
    Raises UserError naming a missing file, an unknown model type, or the tensor that does not fit.
    """
    if path.suffix == ".safetensors":
        return single_file.load(path, dtype=dtype, placement=placement)
    if path.suffix == ".npz":
        return big_vision.load(path, dtype=dtype, placement=placement)
    if (path / diffusers.INDEX).is_file() or holds_component(path):
        return diffusers.load(path, dtype=dtype, placement=placement)
    if (path / native.MODEL_FILE).is_file() and not (path / hf.CONFIG).is_file():
        return native.load(path, dtype=dtype, placement=placement)
    if (path / open_clip.CONFIG).is_file() and not (path / hf.CONFIG).is_file():
        return open_clip_directory.load(path, dtype=dtype, placement=placement)
    if not (path / hf.CONFIG).is_file() and (file := gguf_model.find(path)) is not None:
        return gguf_model.load(file, dtype=dtype, placement=placement)
    if not path.is_dir():
        raise UserError(f"{path} is not a model directory, nor a .gguf, nor a big_vision .npz")
    return hf.load(path, dtype=dtype, placement=placement)
