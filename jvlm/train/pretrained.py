"""`jvlm.load` and `jvlm.save`: any supported directory, published or a workdir, to a model in memory and back."""

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jvlm import models
from jvlm.checkpoint.manager import Checkpoints
from jvlm.checkpoint.manifest import parse_step
from jvlm.checkpoint.parts import read_parts
from jvlm.core.build import lookup
from jvlm.core.build import merge as merge_trees
from jvlm.core.errors import UserError, nearest
from jvlm.core.files import write_json
from jvlm.core.tree import flatten, unflatten
from jvlm.core.types import Params
from jvlm.data.processor import Processor
from jvlm.interop import adapters, native
from jvlm.interop.diffusers import embeddings, lora
from jvlm.interop.directory import WRITERS, load_directory
from jvlm.interop.hf import directory as hf
from jvlm.interop.native import MODEL_FILE, read_files, write_model
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import Placement, abstract_variables, write_whole
from jvlm.train.adapter_base import assemble, check_base, trained_plain
from jvlm.train.status import STATUS_FILE
from jvlm.transforms.adapters import adapter_names, merge
from jvlm.transforms.qtensor import QTensor


def load(path: str | Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The model in `path`: a transformers or open_clip directory, a workdir, or one checkpoint step of a workdir.

    `dtype` None keeps what is stored. `placement` (mesh, sharding rules) shards published weights as they are read.
    A workdir gives its averaged parameters when it keeps an average, those of an adapter run over its base. UserError
    names what is missing or does not fit.
    """
    path = locate(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a model directory or a workdir")
    step = parse_step(path.name)
    workdir = path if step is None else path.parent.parent
    if (workdir / MODEL_FILE).is_file() and (step is not None or (workdir / "checkpoints").is_dir()):
        return _load_workdir(workdir, path if step is not None else workdir / "checkpoints")
    if (path / STATUS_FILE).is_file() and not (path / "checkpoints").is_dir():
        raise UserError(f"{path} is a run without a checkpoint so far; train on with it as --workdir, or name another")
    return load_directory(path, dtype=dtype, placement=placement)


def described(path: str | Path) -> dict[str, Any] | None:
    """The model in a workdir or transformers directory as `models.create` takes it, its weights unread.

    None for what does not exist, and for a format whose weights have to be looked at.
    """
    path = locate(path)
    workdir = path if parse_step(path.name) is None else path.parent.parent
    if (workdir / MODEL_FILE).is_file():
        return json.loads((workdir / MODEL_FILE).read_text())["model"]
    return hf.described(path) if (path / hf.CONFIG).is_file() else None


def load_parts(init: str) -> tuple[Pretrained, bool]:
    """What a run's `init` names, and whether that is a whole model: `DIR`, or several `PART=DIR` with commas between.

    `PART=DIR#INSIDE` takes the subtree INSIDE of what is in DIR. The parts' parameters lie under their own names;
    model, preprocessing and the rest are then those of the last one.
    """
    if "=" not in init:
        return load(init), True
    params: Params = {}
    for entry in init.split(","):
        name, _, where = entry.strip().partition("=")
        directory, _, inside = where.partition("#")
        found = load(directory)
        tree: Any = found.params
        for key in filter(None, inside.split("/")):
            if key not in tree:
                raise UserError(f"{directory} has no part {inside!r}; {nearest(key, tree)}")
            tree = tree[key]
        for key in reversed(name.split("/")):
            tree = {key: tree}
        params = merge_trees(params, tree)
    return replace(found, params=params), False


def locate(path: str | Path) -> Path:
    """A path, or for `package:NAME` the folder of the installed package NAME, whose weights come with it.

    UserError where the package is not installed.
    """
    package = str(path).removeprefix("package:")
    if package == str(path):
        return Path(path)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f'the package {package} is not installed: pip install "jvlm[demo]", or name a directory')
    return Path(spec.origin).parent


def save(pretrained: Pretrained, path: str | Path, *, format: str = "hf") -> None:
    """Writes a directory that another library opens. `format` is a key of `FORMATS`."""
    lookup(FORMATS, format, "format")(pretrained, Path(path))


def save_workdir(pretrained: Pretrained, path: Path) -> None:
    """Writes a workdir at step 0 that `load`, every verb and `config.init` accept; a quantized model without steps."""
    quantized = any(isinstance(leaf, QTensor) for leaf in flatten(pretrained.params).values())
    if quantized and not adapter_names(pretrained.params):
        native.save(pretrained, path)  # a workdir's arrays would not say how their codes are read
        return

    def fill(part: Path) -> None:
        write_model(part, pretrained.config, pretrained.processor)
        checkpoints = Checkpoints(part / "checkpoints", asynchronous=False)
        adapted = bool(adapter_names(pretrained.params))  # a workdir without its run would not know its adapter
        merged = merge(pretrained.params) if adapted else pretrained.params
        tree = {"params": jax.tree.map(jnp.asarray, merged)}
        if pretrained.state:
            tree["state"] = jax.tree.map(jnp.asarray, pretrained.state)
        checkpoints.save(0, tree, {"position": 0, "counters": {}})
        checkpoints.close()
        write_json(part / STATUS_FILE, dict(status="finished", step=0, reason="imported"))

    write_whole(path, fill)


FORMATS: dict[str, Callable[[Pretrained, Path], None]] = {
    **WRITERS,
    "peft": adapters.save_peft,
    "diffusers-lora": lora.save,
    "textual-inversion": embeddings.save,
    "jvlm": save_workdir,
}


def differing_captions(a: Pretrained, b: Pretrained, captions: Sequence[str]) -> list[str]:
    """The captions that two models' tokenizers turn into different tokens before padding."""
    if a.processor.tokenizer is None or b.processor.tokenizer is None:
        raise UserError("one of the two formats has no tokenizer, so captions cannot be compared")
    one, other = a.processor.tokenizer, b.processor.tokenizer
    return [caption for caption in captions if one.encode(caption) != other.encode(caption)]


def _load_workdir(workdir: Path, checkpoints: Path) -> Pretrained:
    described = json.loads((workdir / MODEL_FILE).read_text())
    restored = read_parts(checkpoints, ("params", "frozen", "state", "average"))
    for problem in restored.problems:
        print(f"jvlm: {workdir}: passed over {problem}; read step {restored.step} instead", file=sys.stderr, flush=True)
    tree = restored.tree
    trained = tree.get("average") or tree.get("params", {})
    stored = {**flatten(trained), **flatten(tree.get("frozen", {}))}
    config = described["model"]
    model = models.create(config)
    params = _adapted(model, described["adapter"], stored, workdir) if "adapter" in described else unflatten(stored)
    processor = Processor.from_dict(described["processor"], read_files(workdir))
    trained = trained_plain(params, described["adapter"]["method"]) if "adapter" in described else ()
    return Pretrained(model, params, tree.get("state", {}), config, processor, {}, trained=trained)


def _adapted(model: Any, adapter: dict[str, Any], stored: dict[str, Any], workdir: Path) -> Params:
    source = None
    if adapter["base"] is not None:
        if "=" not in adapter["base"] and not Path(adapter["base"]).exists():
            raise UserError(f"{workdir} is an adapter over {adapter['base']}, which is not there; put it back")
        source = load_parts(adapter["base"])[0].params
        check_base(adapter, source, workdir)
    shapes = abstract_variables(model)[0]["params"]
    return assemble(shapes, adapter, stored, source)
