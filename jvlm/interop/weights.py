"""What every directory format does: read weights through a table, write a directory whole, read and write JSON."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jvlm import models
from jvlm.core import mapping
from jvlm.core.errors import UserError
from jvlm.core.sharding import Rules, shard_params
from jvlm.core.tree import flatten
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import Table, variables_flat, variables_nested
from jvlm.nn.axes import split_shapes
from jvlm.transforms.adapters import merge

Placement = tuple[jax.sharding.Mesh, Rules]


def read_weights(
    table: Table, config: Mapping[str, Any], reader: mapping.Reader, dtype: Any | None, placement: Placement | None
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(model, its fields, its variables) of a published configuration and its tensors."""
    fields = table.fields(config)
    model = models.create({"family": table.family, **fields})
    return model, fields, read_variables(model, table.rules(model), reader, dtype, placement, table.ignore)


def read_variables(
    model: Any,
    rules: Sequence[mapping.Rule],
    reader: mapping.Reader,
    dtype: Any | None,
    placement: Placement | None,
    ignore: Sequence[str],
) -> dict[str, Any]:
    """`{"params": ..., **state}` of a model from the tensors that `rules` name, each put where `placement` says."""
    shapes, names = abstract_variables(model)
    shardings = None if placement is None else variables_flat(shard_params(shapes, names, *placement))
    return variables_nested(
        mapping.load(rules, variables_flat(shapes), reader, dtype=dtype, shardings=shardings, ignore=ignore)
    )


def check_free(path: Path) -> None:
    """UserError when `path` exists and is not an empty folder; to be asked before the work, too."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already exists; choose another directory or remove it")


def write_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Calls `fill` on a folder beside `path`, which then takes its place in one rename.

    Raises UserError when `path` exists and is not an empty folder: nothing that was written is lost.
    """
    check_free(path)
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        fill(part)
        if path.exists():
            path.rmdir()
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def abstract_variables(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(shapes, axis names) of `{"params": ..., **state}` of a model."""
    shapes = {key: jax.ShapeDtypeStruct(shape, dtype) for key, (shape, dtype) in example_inputs(model).items()}
    return split_shapes(lambda key, kwargs: dict(model.init(key, **kwargs)), jax.random.key(0), shapes)


def example_inputs(model: Any, batch: int = 1) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of what a model's call takes, as it says itself or from its towers."""
    if hasattr(model, "example"):
        return model.example(batch)
    image_size, length = _sizes(model)
    out: dict[str, tuple[tuple[int, ...], Any]] = {}
    if image_size is not None:
        pictures = (1,) if hasattr(model, "image_token") else ()  # one for each row of text
        out["image"] = ((batch, *pictures, *image_size, 3), np.float32)
    if length is not None:
        out["tokens"] = ((batch, length), np.int32)
    return out


def _sizes(model: Any) -> tuple[tuple[int, int] | None, int | None]:
    image = getattr(model, "image_tower", model if hasattr(model, "image_size") else None)
    text = getattr(model, "text_tower", model if hasattr(model, "length") else None)
    size = None if image is None else image.image_size
    return ((size, size) if isinstance(size, int) else size), None if text is None else text.length


def limits(model: Any) -> tuple[int | None, tuple[int, int] | None]:
    image_size, length = _sizes(model)
    return length, image_size


def materialized(pretrained: Pretrained) -> dict[str, Any]:
    merged = flatten(merge(pretrained.params))
    flat = variables_flat({"params": pretrained.params, **pretrained.state})
    return merged | {path: leaf for path, leaf in flat.items() if path not in merged}


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is {path.parent} a model directory?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}); copy it again") from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
