"""Adapters that a command line names, put on a model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jvlm.core.errors import ConfigError

if TYPE_CHECKING:
    from jvlm.interop.pretrained import Pretrained


def with_adapters(
    model: "Pretrained", paths: Sequence[str], weights: Sequence[float] | None
) -> "tuple[Pretrained, list[str]]":
    """`model` with the adapters in `paths` on it at their `weights` (1), and those it had at 1; the names of them all.

    ConfigError where there are not as many weights as paths.
    """
    from jvlm.interop import adapters
    from jvlm.transforms.adapters import activate, adapter_names

    weights = weights or [1.0] * len(paths)
    if len(weights) != len(paths):
        raise ConfigError(f"{len(weights)} times --weight for {len(paths)} times --adapter")
    active = dict.fromkeys(adapter_names(model.params), 1.0)
    for index, (path, weight) in enumerate(zip(paths, weights)):
        name = f"{index}:{Path(path).name}"
        model = adapters.load(Path(path), model, name=name)
        if name in adapter_names(model.params):
            active[name] = weight
    return replace(model, params=activate(model.params, active)), list(active)
