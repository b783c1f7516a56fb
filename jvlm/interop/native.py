"""jvlm's own directory: `model.json`, the preprocessing, and weights under our names, quantized leaves included.

A leaf's arrays lie in the safetensors file as `<path>/codes`, `<path>/scale` and so on, codes of four bits two a byte;
`model.json` says how they belong together.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm import models
from jvlm.core.errors import UserError
from jvlm.core.files import absolute, write_json
from jvlm.core.leaves import Leaf
from jvlm.core.sharding import shard_params
from jvlm.data.processor import Processor
from jvlm.interop import safetensors
from jvlm.interop.packing import pack_bytes, unpack_bytes
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import variables_flat, variables_nested
from jvlm.interop.weights import Placement, abstract_variables, read_json, write_whole
from jvlm.transforms.qtensor import QTensor

MODEL_FILE, PROCESSOR = "model.json", "processor"
_STATIC = ("scheme", "axis", "group", "dtype")
_ARRAYS = ("codes", "scale", "zero", "magnitude", "offset", "inner")


def save(pretrained: Pretrained, path: Path) -> None:
    """Writes a directory that `load` reads back to the bit, complete or not at all.

    Raises UserError for a weight leaf that is not a quantized kernel: an adapter is merged first.
    """
    flat = variables_flat({"params": pretrained.params, **pretrained.state})
    for name, leaf in flat.items():
        if isinstance(leaf, Leaf) and not isinstance(leaf, QTensor):
            raise UserError(f"{name} is a {type(leaf).__name__}; merge adapters before the weights are written")

    def fill(part: Path) -> None:
        quantization = describe(flat)
        described = dict(quantization=quantization) if quantization else {}
        write_model(part, pretrained.config, pretrained.processor, described)
        safetensors.write(part, _tensors(flat))

    write_whole(path, fill)


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of such a directory. `dtype` converts what is not quantized; see `interop.directory.load_directory`.

    Raises UserError for tensors that do not fit the model or are missing.
    """
    described = read_json(path / MODEL_FILE)
    model = models.create(described["model"])
    shapes, names = abstract_variables(model)
    reader = safetensors.SafetensorsReader(path)
    quantized = described.get("quantization") or {}
    flat: dict[str, Any] = {}
    for name, wanted in variables_flat(shapes).items():
        if name in quantized:
            leaf = _leaf(name, quantized[name], reader)
        else:
            leaf = _read(reader, name)
            leaf = leaf.astype(dtype) if dtype is not None else leaf
        if tuple(leaf.shape) != tuple(wanted.shape):
            raise UserError(f"{path}: {name} has shape {list(leaf.shape)}, but the model needs {list(wanted.shape)}")
        flat[name] = leaf
    if extra := sorted(set(reader.names()) - set(_names(flat))):
        raise UserError(f"{path}: the tensor {extra[0]!r} has no place in the model")
    variables = _placed(variables_nested(flat), names, placement)
    params = variables.pop("params")
    processor = Processor.from_dict(described["processor"], read_files(path))
    return Pretrained(model, params, variables, described["model"], processor, {})


def write_model(
    directory: Any, config: dict[str, Any], processor: Processor, described: Mapping[str, Any] | None = None
) -> None:
    """Puts the model's fields and its preprocessing into a directory or workdir, for `load`.

    What else `model.json` says is `described`: how `quantization` is read, what an `adapter` stands on.
    """
    folder = absolute(directory) / PROCESSOR
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in processor.files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    whole = dict(model=config, processor=processor.to_dict()) | dict(described or {})
    write_json(absolute(directory) / MODEL_FILE, whole)


def read_files(directory: Path) -> dict[str, bytes]:
    """The tokenizers' files by their path in their folder."""
    folder = directory / PROCESSOR
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def describe(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`{path: how the codes are read}` of the quantized leaves among flat parameters."""
    return {
        name: dict({key: getattr(leaf, key) for key in _STATIC}, shape=list(leaf.shape))
        for name, leaf in flat.items()
        if isinstance(leaf, QTensor)
    }


def _tensors(flat: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, leaf in flat.items():
        if not isinstance(leaf, QTensor):
            yield name, np.asarray(leaf)
            continue
        for key in _ARRAYS:
            array = getattr(leaf, key)
            if array is not None:
                small = array.dtype == jnp.int4
                yield f"{name}/{key}", pack_bytes(np.asarray(array)) if small else np.asarray(array)


def _names(flat: Mapping[str, Any]) -> Iterator[str]:
    for name, leaf in flat.items():
        if isinstance(leaf, QTensor):
            yield from (f"{name}/{key}" for key in _ARRAYS if getattr(leaf, key) is not None)
        else:
            yield name


def _leaf(name: str, static: Mapping[str, Any], reader: safetensors.SafetensorsReader) -> QTensor:
    stored = set(reader.names())
    arrays = {key: _read(reader, f"{name}/{key}") for key in _ARRAYS[2:] if f"{name}/{key}" in stored}
    codes = _read(reader, f"{name}/codes")
    if codes.dtype == np.uint8:
        codes = unpack_bytes(codes, static["shape"]).astype(jnp.int4)
    arrays |= dict(codes=codes, scale=_read(reader, f"{name}/scale"))
    return QTensor(**{k: jnp.asarray(x) for k, x in arrays.items()}, **{key: static[key] for key in _STATIC})


def _read(reader: safetensors.SafetensorsReader, name: str) -> np.ndarray:
    if name not in set(reader.names()):
        raise UserError(f"the tensor {name!r} is missing; copy the directory again")
    return reader.read(name)


def _placed(variables: Any, names: Any, placement: Placement | None) -> Any:
    if placement is None:
        return jax.tree.map(jnp.asarray, variables)
    return jax.device_put(variables, shard_params(variables, names, *placement))
