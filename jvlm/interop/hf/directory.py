"""transformers directories: `config.json`, safetensors, and the preprocessing files."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvlm.core import mapping
from jvlm.core.build import merge
from jvlm.core.errors import UserError, nearest
from jvlm.interop import safetensors
from jvlm.interop.hf import TABLES, processor
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement, limits, materialized, read_json, read_weights, write_json, write_whole

CONFIG = "config.json"


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model of a transformers directory. `dtype` None keeps what is stored.

    With `placement` (mesh, sharding rules) every host reads only its own shards. Raises UserError naming a missing
    file, an unknown model type, or the tensor that does not fit.
    """
    config = read_json(path / CONFIG)
    model_type = config.get("model_type")
    if model_type not in TABLES:
        near = nearest(str(model_type), TABLES)
        raise UserError(f"{path / CONFIG}: model_type {model_type!r} is unknown; {near}")
    table = TABLES[model_type]
    reader = safetensors.SafetensorsReader(path, renames=table.renames)
    model, fields, variables = read_weights(table, config, reader, dtype, placement)
    preprocessing = processor.read(path, model_type, *limits(model))
    params = variables.pop("params")
    return Pretrained(model, params, variables, {"family": table.family, **fields}, preprocessing, config)


def save(pretrained: Pretrained, path: Path, *, model_type: str | None = None) -> None:
    """Writes a transformers directory, complete or not at all: a failed write leaves nothing at `path`.

    `model_type` None takes the source's own, or the first one of the family. Weights keep their dtype.
    """
    family = pretrained.config["family"]
    kinds = [name for name, table in TABLES.items() if table.family == family]
    model_type = model_type or pretrained.published.get("model_type") or next(iter(kinds), None)
    if model_type not in kinds:
        raise UserError(f"family {family!r} has no transformers format; {nearest(str(model_type), kinds)}")
    table = TABLES[model_type]

    def fill(part: Path) -> None:
        config = table.config(pretrained.model)
        if pretrained.published.get("model_type") == model_type:
            config = merge(pretrained.published, config)
        leaf = jax.tree.leaves(pretrained.params)[0]
        config["dtype"] = str(np.dtype(leaf.dtype))
        config.pop("torch_dtype", None)
        write_json(part / CONFIG, config)
        safetensors.write(part, mapping.save(table.rules(pretrained.model), materialized(pretrained)))
        tower = getattr(pretrained.model, "image_tower", pretrained.model)
        processor.write(part, pretrained.processor, model_type, getattr(tower, "patch_size", None))

    write_whole(path, fill)
