"""From a configuration to the parts of a run: mesh, model, preprocessing, task, optimizer, data, evaluators."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jvlm import models
from jvlm.core import build
from jvlm.core.errors import ConfigError
from jvlm.core.sharding import PRESETS, Rules, batch_shards, make_mesh
from jvlm.core.tree import flatten, select
from jvlm.core.types import Params
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import FILES, Tokenizer, clip_tokenizer, tokenizer_from_files
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import example_inputs
from jvlm.tasks import TASKS, Shaped, Task
from jvlm.train.config import to_plain, tuples
from jvlm.train.optim import make_optimizer
from jvlm.train.pretrained import FORMATS, load
from jvlm.train.state import task_variables
from jvlm.transforms.adapter_method import Method
from jvlm.transforms.adapters import build_leaves, frozen_paths
from jvlm.transforms.freeze import partition
from jvlm.transforms.methods import ContextMethod, make_method

# Fields of a model that say how it computes, not what: a configuration sets them also when it starts from weights.
_RUNTIME = ("dtype", "scan", "remat")


@dataclass(frozen=True)
class Run:
    """Everything that a training needs and that its configuration determines."""

    config: dict[str, Any]
    mesh: Mesh
    rules: Rules
    model_config: dict[str, Any]
    model: Any
    processor: Processor
    task: Task
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    batch: dict[str, jax.ShapeDtypeStruct]
    params: Params
    names: Params
    frozen: tuple[str, ...]
    quantization: dict[str, Any] | None
    adapter: Method | None
    source: Pretrained | None


def setup(config: ConfigDict, *, abstract: bool = False, devices: Any = None) -> Run:
    """Builds a run; ConfigError names what is wrong with the configuration.

    `abstract` reads no weights and no tokenizer: enough to compile, not to train.
    """
    plain = to_plain(config)
    mesh_fields = dict(plain.get("mesh") or {})
    rules = build.lookup(PRESETS, mesh_fields.pop("preset", "dp"), "sharding preset")
    mesh = make_mesh(mesh_fields.pop("shape", None), devices)
    if mesh_fields:
        raise ConfigError(f"mesh has no key {next(iter(mesh_fields))!r}; valid names: preset, shape")
    micro = plain.get("micro_batches", 1)
    if plain["batch_size"] % (micro * batch_shards(mesh)):
        parts = f"{micro} micro-batches on {batch_shards(mesh)} devices"
        raise ConfigError(f"batch_size {plain['batch_size']} does not divide into {parts}")
    if plain.get("export"):
        build.lookup(FORMATS, plain["export"], "export format")
    subtree, source = _source(plain["init"], abstract)
    model_config = dict(plain["model"])
    processor = None
    if source is not None and not subtree:
        runtime = {key: model_config[key] for key in _RUNTIME if key in model_config}
        model_config = build.merge(source.config, {**runtime, **(plain.get("model_overrides") or {})})
        processor = source.processor
    model = models.create(model_config)
    processor_fields = dict(plain.get("processor") or {})
    if abstract:
        processor_fields["tokenizer"] = None
    processor = make_processor(processor_fields, model, processor)
    task_fields = dict(plain["task"])
    task = build.call(
        build.lookup(TASKS, task_fields.pop("name", "?"), "task"), {"model": model, **task_fields}, "task"
    )
    batch = {
        key: jax.ShapeDtypeStruct(shape, dtype)
        for key, (shape, dtype) in example_inputs(model, plain["batch_size"]).items()
    }
    batch["weight"] = jax.ShapeDtypeStruct((plain["batch_size"],), np.float32)
    if plain["task"].get("use_labels"):
        batch["label"] = jax.ShapeDtypeStruct((plain["batch_size"],), np.int32)
    if isinstance(task, Shaped):
        batch = task.shapes(batch)
    params, _, names = task_variables(task, batch)
    frozen = tuple(plain.get("frozen") or ())
    adapter = make_method(plain["adapter"]) if plain.get("adapter") else None
    quantization = plain.get("quantize") or None
    if quantization is not None and adapter is None:
        raise ConfigError("quantized kernels are not trained: config.quantize needs a config.adapter beside it")
    if adapter is not None and not adapter.MERGES and plain.get("export"):
        kind = plain["adapter"]["kind"]
        raise ConfigError(f"an adapter of kind {kind!r} cannot be merged into an export; set --config.export=''")
    if isinstance(adapter, ContextMethod) and not abstract:
        processor = with_context(processor, adapter)
    if adapter is not None:
        held = select(flatten(params), frozen)
        params = jax.eval_shape(
            lambda params, key: build_leaves(params, quantization, adapter, key), params, jax.random.key(0)
        )
        frozen = tuple(dict.fromkeys([*frozen_paths(params, adapter), *held]))
    optimizer, schedule = make_optimizer(plain["optimizer"], partition(params, frozen)[0], plain["steps"])
    return Run(
        config=plain,
        mesh=mesh,
        rules=rules,
        model_config={"family": model_config["family"], **models.fields(model_config)},
        model=model,
        processor=processor,
        task=task,
        optimizer=optimizer,
        schedule=schedule,
        batch=batch,
        params=params,
        names=names,
        frozen=frozen,
        quantization=quantization,
        adapter=adapter,
        source=source,
    )


def with_context(processor: Processor, method: ContextMethod) -> Processor:
    """The preprocessing that puts the learned context before a text."""
    if processor.text is None or processor.tokenizer is None:
        raise ConfigError("adapter 'coop' learns a context for texts, and this model takes none")
    room = processor.text.length - len(processor.tokenizer.prefix) - len(processor.tokenizer.suffix)
    if method.context >= room:
        raise ConfigError(f"adapter.context = {method.context} leaves no room for words; give less than {room}")
    text = replace(processor.text, context=method.context, classes=tuple(method.classes))
    return replace(processor, text=text)


def _source(init: str, abstract: bool) -> tuple[str, Pretrained | None]:
    subtree, equals, directory = init.rpartition("=")
    if not directory or abstract:
        return subtree if equals else "", None
    return subtree, load(directory)


def make_processor(fields: Mapping[str, Any], model: Any, base: Processor | None) -> Processor:
    """The preprocessing of a run: that of the weights it starts from, or that of the configuration.

    `fields`: `image` (fields of ImageSpec without `size`, `kind` one of clip, siglip), `tokenizer` (`clip` for the
    vocabulary that ships with jvlm, else a directory that holds one; None leaves texts out). Sizes and lengths are the
    model's.
    """
    image_fields = tuples(fields.get("image") or {})
    shapes = example_inputs(model)
    image = text = tokenizer = None
    if "image" in shapes:
        side = shapes["image"][0][1]
        if base is not None and base.image is not None:
            image = base.image if base.image.size[0] == side else _resized(base.image, side)
        else:
            kinds = {"clip": ImageSpec.clip, "siglip": ImageSpec.siglip}
            kind = build.lookup(kinds, image_fields.pop("kind", "clip"), "image preprocessing")
            image = build.call(lambda **rest: kind(side, **rest), image_fields, "processor.image")
    name = fields.get("tokenizer", "clip")
    if "tokens" in shapes and name is not None:
        tokenizer = base.tokenizer if base is not None and base.tokenizer is not None else None
        tokenizer = tokenizer or _tokenizer(name)
        pad = base.text.pad_id if base is not None and base.text is not None else tokenizer.pad_id
        text = TextSpec(length=shapes["tokens"][0][1], pad_id=pad)
        if tokenizer.vocab_size > model.text_tower.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the text tower {model.text_tower.vocab_size}; "
                "raise model.text.vocab_size"
            )
    return Processor(image, text, tokenizer)


def _tokenizer(name: str) -> Tokenizer:
    if name == "clip":
        return clip_tokenizer()
    folder = Path(name)
    files = {file: (folder / file).read_bytes() for file in FILES if (folder / file).is_file()}
    if not files:
        raise ConfigError(f"processor.tokenizer {name!r} is neither 'clip' nor a directory with a tokenizer")
    return tokenizer_from_files(files)


def _resized(spec: ImageSpec, side: int) -> ImageSpec:
    target = side if isinstance(spec.resize_to, int) else None if spec.resize_to is None else (side, side)
    return replace(spec, size=(side, side), resize_to=target)
