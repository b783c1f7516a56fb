"""One model of a diffusers directory: a folder with `config.json` and `diffusion_pytorch_model.safetensors`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jvlm.core import mapping
from jvlm.core.build import merge
from jvlm.core.errors import UserError, nearest
from jvlm.core.types import Params
from jvlm.interop import safetensors
from jvlm.interop.diffusers import TABLES
from jvlm.interop.table import Table, variables_flat
from jvlm.interop.weights import Placement, read_json, read_weights, write_json, write_whole
from jvlm.transforms.adapters import merge as merge_adapters

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Component:
    """`model`, a linen module, with its `params` and `state`; `config` rebuilds it, `published` is the folder's own."""

    model: Any
    params: Params
    config: dict[str, Any]
    published: Mapping[str, Any] = field(default_factory=dict)
    state: Params = field(default_factory=dict)


def holds_component(path: Path) -> bool:
    """Whether `path` is such a folder."""
    return (path / CONFIG).is_file() and "_class_name" in read_json(path / CONFIG)


def load_component(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Component:
    """The model in the folder `path`. `dtype` None keeps what is stored; `placement` as for `load_directory`.

    Raises UserError naming a missing file, an unknown class, a setting that jvlm lacks or the tensor that does not fit.
    """
    published = read_json(path / CONFIG)
    kind = str(published.get("_class_name"))
    if kind not in TABLES:
        raise UserError(f"{path / CONFIG}: the class {kind!r} is unknown; {nearest(kind, TABLES)}")
    table = TABLES[kind]
    reader = safetensors.SafetensorsReader(path, WEIGHTS, renames=table.renames)
    model, fields, variables = read_weights(table, published, reader, dtype, placement)
    return Component(model, variables["params"], {"family": table.family, **fields}, published)


def write_component(component: Component, path: Path) -> None:
    """Fills the folder `path`, made if it is missing. Adapters are merged; weights keep their dtype."""
    path.mkdir(parents=True, exist_ok=True)
    table = table_of(component)
    config = table.config(component.model)
    if component.published.get("_class_name") == config["_class_name"]:
        config = merge(component.published, config)
    write_json(path / CONFIG, config)
    flat = variables_flat({"params": merge_adapters(component.params), **component.state})
    safetensors.write(path, mapping.save(table.rules(component.model), flat), WEIGHTS)


def save_component(component: Component, path: Path) -> None:
    """Writes a folder of its own, complete or not at all."""
    write_whole(path, lambda part: write_component(component, part))


def table_of(component: Component) -> Table:
    """The table that a model is written by. One family may be several classes: its configuration says which."""
    family = component.config["family"]
    known = {table.family: table for table in TABLES.values()}
    if family not in known:
        raise UserError(f"family {family!r} has no diffusers format; {nearest(family, known)}")
    return TABLES[known[family].config(component.model)["_class_name"]]
