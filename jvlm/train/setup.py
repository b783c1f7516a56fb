"""From a configuration to the parts of a run: mesh, model, preprocessing, task, optimizer, data, evaluators."""

from dataclasses import dataclass, replace
from math import prod
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
from jvlm.data.buckets import Size
from jvlm.data.learned_words import named_rows
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.processor import Processor
from jvlm.generate.conversing import conversing
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import example_inputs
from jvlm.tasks import TASKS, Language, Shaped, Task
from jvlm.train.config import to_plain
from jvlm.train.optim import make_optimizer
from jvlm.train.preprocessing import make_buckets, make_processor
from jvlm.train.pretrained import FORMATS, described, load_parts
from jvlm.train.state import task_variables
from jvlm.transforms.adapter_method import Method
from jvlm.transforms.adapters import build_leaves, frozen_paths
from jvlm.transforms.freeze import partition
from jvlm.transforms.methods import ContextMethod, make_method
from jvlm.transforms.prompt_methods import WordsMethod

# Fields of a model that say how it computes, not what: a configuration sets them also when it starts from weights.
_RUNTIME = ("dtype", "scan", "remat", "attention")


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
    conversations: MultimodalProcessor | None = None
    buckets: tuple[Size, ...] = ()


def setup(config: ConfigDict, *, abstract: bool = False, devices: Any = None) -> Run:
    """Builds a run; ConfigError names what is wrong with the configuration.

    `abstract` reads no weights and no tokenizer: enough to compile, not to train.
    """
    plain = to_plain(config)
    for key in ("steps", "batch_size", "checkpoint_every", "log_every"):
        if plain[key] < 1:
            raise ConfigError(f"{key} is {plain[key]}; give 1 or more")
    mesh_fields = dict(plain.get("mesh") or {})
    rules = build.lookup(PRESETS, mesh_fields.pop("preset", "dp"), "sharding preset")
    mesh = make_mesh(mesh_fields.pop("shape", None), devices)
    if mesh_fields:
        raise ConfigError(f"mesh has no key {next(iter(mesh_fields))!r}; valid names: preset, shape")
    if plain.get("gradients") not in (None, "float32"):
        raise ConfigError(
            f"gradients = {plain['gradients']!r}: give 'float32' to sum kernels' gradients over the chips in it, or "
            "None for the model's dtype, which in bfloat16 is half the bytes"
        )
    micro = plain.get("micro_batches", 1)
    if plain["batch_size"] % (micro * batch_shards(mesh)):
        parts = f"{micro} micro-batches on {batch_shards(mesh)} devices"
        raise ConfigError(f"batch_size {plain['batch_size']} does not divide into {parts}")
    if plain.get("export"):
        build.lookup(FORMATS, plain["export"], "export format")
    source, is_whole = load_parts(plain["init"]) if plain["init"] and not abstract else (None, True)
    model_config = dict(plain["model"])
    whole = source if is_whole else None
    processor = whole.processor if whole else None
    own = whole.config if whole else None
    if abstract and plain["init"] and "=" not in plain["init"]:
        own = described(plain["init"])
    if own is not None:
        runtime = {key: model_config[key] for key in _RUNTIME if key in model_config}
        model_config = build.merge(own, {**runtime, **(plain.get("model_overrides") or {})})
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
    if buckets := make_buckets((plain.get("pipeline") or {}).get("buckets"), model):
        largest = max(buckets, key=prod)
        batch["image"] = jax.ShapeDtypeStruct((plain["batch_size"], *largest, 3), batch["image"].dtype)
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
    if isinstance(adapter, WordsMethod) and not abstract:
        processor, adapter = with_words(processor, adapter)
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
        conversations=conversing_with(task, processor) if isinstance(task, Language) and not abstract else None,
        buckets=buckets,
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


def with_words(processor: Processor, method: WordsMethod) -> tuple[Processor, WordsMethod]:
    """The preprocessing that knows the words to be learned, and the method with the tokens that they start as."""
    text, tokenizer = processor.text, processor.tokenizer
    if text is None or tokenizer is None:
        raise ConfigError("adapter 'textual_inversion' learns words of texts, and this model takes none")
    if text.words:
        raise ConfigError(f"the model has learned {text.words[0]!r} before; start from the model without it")
    ids = tokenizer.encode(method.init)
    start = ids[len(tokenizer.prefix) : len(ids) - len(tokenizer.suffix)]
    words = tuple(row for word in method.tokens for row in named_rows(word, method.vectors))
    return replace(processor, text=replace(text, words=words)), replace(method, start=tuple(start))


def conversing_with(task: Language, processor: Processor) -> MultimodalProcessor:
    """How the model of a run reads the conversations that it learns from."""
    return conversing(task.model, processor, task.length, task.pictures, task.question, "config.processor")
