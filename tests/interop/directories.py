"""Directories in a published format: written by a reference, opened by a table, written back."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm import models
from jvlm.core import mapping
from jvlm.interop import safetensors
from jvlm.interop.table import Table, variables_flat, variables_nested
from tests.models_util import abstract
from tests.reference import torch


def perturbed(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """`model` for evaluation with noise on everything it stores, so that no zero or one hides a wrong path."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if x.is_floating_point():
                noise = torch.randn(x.shape, generator=generator) * 0.05
                x.add_(noise.abs() if name.endswith("running_var") else noise)
    return model.eval()


def read_config(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_text())


def load(directory: Path, table: Table, **options: Any) -> tuple[Any, dict[str, Any]]:
    """(model, variables) of a transformers directory; `options` go to `mapping.load`."""
    reader = safetensors.SafetensorsReader(directory, renames=table.renames)
    config = table.settle(read_config(directory), set(reader.names()))
    model = models.create({"family": table.family, **table.fields(config)})
    flat = mapping.load(table.rules(model), shapes(model), reader, ignore=table.ignore, **options)
    return model, variables_nested(flat)


def save(directory: Path, table: Table, model: Any, variables: Mapping[str, Any], **options: Any) -> None:
    """Writes a transformers directory; `options` go to `safetensors.write`."""
    safetensors.write(directory, mapping.save(table.rules(model), variables_flat(variables)), **options)
    (directory / "config.json").write_text(json.dumps(table.config(model)))


@functools.cache
def shapes(model: Any) -> dict[str, Any]:
    return variables_flat(abstract(model)[0])


def tensors(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor of a directory, by name."""
    reader = safetensors.SafetensorsReader(directory)
    return {name: reader.read(name) for name in reader.names()}


def cast(variables: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)


def bits(x: Any) -> bytes:
    return np.asarray(x).tobytes()


def assert_same_bits(actual: Any, expected: Any) -> None:
    a, b = variables_flat(actual), variables_flat(expected)
    assert a.keys() == b.keys()
    for path in a:
        assert (a[path].shape, a[path].dtype) == (b[path].shape, b[path].dtype), path
        assert bits(a[path]) == bits(b[path]), path


def assert_near(actual: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float = 1e-5) -> None:
    """Every named output within `tolerance`, absolute where the reference is small and relative where it is large."""
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        difference = np.abs(np.asarray(actual[name], np.float64) - reference).max()
        assert difference <= tolerance * max(1.0, np.abs(reference).max()), f"{name} differs by {difference}"
