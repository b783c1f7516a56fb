"""What `jvlm verify` looks at: the checkpoints of a workdir, or the weights and files of a model directory."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp

from jvlm.checkpoint.manifest import parse_step
from jvlm.checkpoint.verify import verify as verify_checkpoints
from jvlm.core.errors import UserError
from jvlm.core.tree import flatten
from jvlm.interop.native import MODEL_FILE
from jvlm.train.pretrained import load
from jvlm.train.status import STATUS_FILE


def verify(directory: str | Path) -> list[str]:
    """One line for everything that is wrong in `directory`; an empty list means well."""
    path = Path(directory)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a model directory or a workdir")
    step = parse_step(path.name) is not None
    if step or (path / "checkpoints").is_dir():
        problems = [str(p) for p in verify_checkpoints(path if step else path / "checkpoints")]
        return problems or ([] if step else _workdir(path))
    return _loaded(path)


def _workdir(path: Path) -> list[str]:
    problems = []
    for name in (MODEL_FILE, STATUS_FILE):
        try:
            json.loads((path / name).read_text())
        except (OSError, ValueError) as error:
            problems.append(f"{path / name}: {error}")
    return problems or _loaded(path)


def _loaded(path: Path) -> list[str]:
    """Loading checks names, shapes and files; what is left is whether the numbers are finite."""
    try:
        pretrained = load(path)
    except UserError as error:
        return [str(error) if str(path) in str(error) else f"{path}: {error}"]
    problems = []
    if pretrained.processor.image is None and hasattr(pretrained.model, "image_tower"):
        problems.append(f"{path}: no preprocessing for pictures (preprocessor_config.json)")
    if pretrained.processor.tokenizer is None and hasattr(pretrained.model, "text_tower"):
        problems.append(f"{path}: no tokenizer")
    for name, leaf in flatten({"params": pretrained.params, **pretrained.state}).items():
        for array in jax.tree.leaves(leaf):
            if jnp.issubdtype(array.dtype, jnp.floating) and not bool(jnp.isfinite(array).all()):
                problems.append(f"{path}: {name} has values that are not finite")
    return problems
