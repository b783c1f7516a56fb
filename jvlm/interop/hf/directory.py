"""transformers directories: `config.json`, safetensors, and the preprocessing files."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jvlm import models
from jvlm.core import mapping
from jvlm.core.build import merge
from jvlm.core.errors import UserError, nearest
from jvlm.interop import safetensors
from jvlm.interop.hf import TABLES, compressed, kind_of, processor, quantized
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import Config, Table, variables_flat
from jvlm.interop.weights import Placement, limits, materialized, read_json, read_weights, write_json, write_whole

CONFIG, GENERATION = "config.json", "generation_config.json"


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of a transformers directory. `dtype` None keeps what is stored.

    With `placement` (mesh, sharding rules) every host reads only its own shards. Kernels that bitsandbytes (NF4), GPTQ,
    AutoAWQ or compressed-tensors quantized become quantized leaves. Raises UserError naming a missing file, an unknown
    model type, or the tensor that does not fit.
    """
    config = read_json(path / CONFIG)
    table = _table(path, config)
    reader: mapping.Reader = safetensors.SafetensorsReader(path, renames=table.renames)
    if method := config.get("quantization_config"):
        reader = quantized.QuantizedReader(reader, method)
    settled = table.settle(config, set(reader.names()))
    model, fields, variables = read_weights(table, settled, reader, dtype, placement)
    preprocessing = processor.read(path, kind_of(config), *limits(model))
    params = variables.pop("params")
    described = {"family": table.family, **fields}
    generation = read_json(path / GENERATION) if (path / GENERATION).is_file() else {}
    return Pretrained(model, params, variables, described, preprocessing, config, generation=generation)


def described(path: Path) -> dict[str, Any]:
    """The model of a transformers directory as `models.create` takes it; of the weights their names alone are read."""
    config = read_json(path / CONFIG)
    table = _table(path, config)
    names = set(safetensors.SafetensorsReader(path, renames=table.renames).names())
    return {"family": table.family, **table.fields(table.settle(config, names))}


def _table(path: Path, config: Config) -> Table:
    model_type = kind_of(config)
    if model_type not in TABLES:
        near = nearest(model_type, TABLES)
        raise UserError(f"{path / CONFIG}: model_type {model_type!r} is unknown; {near}")
    return TABLES[model_type]


def save(pretrained: Pretrained, path: Path, *, model_type: str | None = None, packed: bool = False) -> None:
    """Writes a transformers directory, complete or not at all: a failed write leaves nothing at `path`.

    `model_type` None takes the source's own, or the first one that says all about the model. Weights keep their dtype;
    quantized ones are written densely, or with `packed` as compressed-tensors packs them (UserError for a scheme that
    it lacks).
    """
    family = pretrained.config["family"]
    kinds = [name for name, table in TABLES.items() if table.family == family]
    if model_type is None:
        published = kind_of(pretrained.published) if "model_type" in pretrained.published else None
        model_type = published or next((kind for kind in kinds if _says_all(TABLES[kind], pretrained.model)), None)
    if model_type not in kinds:
        raise UserError(f"family {family!r} has no transformers format; {nearest(str(model_type), kinds)}")
    table = TABLES[model_type]

    def fill(part: Path) -> None:
        config = table.config(pretrained.model)
        if pretrained.published.get("model_type") == config["model_type"]:
            config = merge(pretrained.published, config)
        rules, flat = table.rules(pretrained.model), variables_flat({"params": pretrained.params, **pretrained.state})
        config["dtype"] = str(jnp.dtype(next(leaf.dtype for leaf in flat.values() if hasattr(leaf, "dtype"))))
        config.pop("torch_dtype", None)
        config.pop("quantization_config", None)
        if packed:
            config["quantization_config"] = compressed.quantization_config(model_type, rules, flat)
        write_json(part / CONFIG, config)
        if pretrained.generation:
            write_json(part / GENERATION, pretrained.generation)
        tensors = compressed.save(rules, flat) if packed else mapping.save(rules, materialized(pretrained))
        safetensors.write(part, tensors)
        tower = getattr(pretrained.model, "image_tower", pretrained.model)
        processor.write(part, pretrained.processor, model_type, getattr(tower, "patch_size", None))

    write_whole(path, fill)


def _says_all(table: Table, model: Any) -> bool:
    """Whether the configuration that `table` writes describes `model` and not only a relative of it."""
    if not hasattr(model, "resolved"):
        return True
    try:
        again = models.create({"family": table.family, **table.fields(table.config(model))})
    except (UserError, AssertionError, TypeError, ValueError):  # it cannot even be written
        return False
    return again.resolved() == model.resolved()
