"""The training data of a run: a source or a mixture from the configuration, read from a position on."""

from collections.abc import Mapping
from typing import Any

import jax

from jvlm.core import build
from jvlm.core.errors import ConfigError
from jvlm.data import DATASETS
from jvlm.data.augment import Augment
from jvlm.data.conversation_batches import make_conversation_iterator
from jvlm.data.mixture import Mixture
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.pipeline import BatchIterator, make_train_iterator
from jvlm.train.config import tuples
from jvlm.train.setup import Run


def make_source(fields: Mapping[str, Any]) -> Any:
    """The source of `{"name": a key of DATASETS, **fields}`, or of `{"mixture": [{..., "weight": w}, ...]}`.

    Of samples or of conversations, as the dataset is.
    """
    fields = dict(fields)
    if parts := fields.pop("mixture", None):
        if fields:
            raise ConfigError(f"a mixture has no field {next(iter(fields))!r} beside its parts")
        weights = [part.get("weight", 1.0) for part in parts]
        return Mixture([make_source({k: v for k, v in part.items() if k != "weight"}) for part in parts], weights)
    name = fields.pop("name", "?")
    return build.call(build.lookup(DATASETS, name, "dataset"), fields, f"dataset {name!r}")


def make_data(run: Run, position: int, counters: Mapping[str, int]) -> BatchIterator:
    """This process's batches from `position` on.

    `config.data`: the source's fields; `config.pipeline`: `augment` (fields of Augment), `group`, `workers`,
    `max_bad` and the other options of `make_train_iterator`.
    """
    options = dict(run.config.get("pipeline") or {})
    augment = build.call(Augment, tuples(options.pop("augment", None) or {}), "pipeline.augment")
    fields = dict(
        batch_size=run.config["batch_size"],
        seed=run.config["seed"],
        position=position,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        augment=augment,
        label="label" in run.batch,
        counters=counters,
    )
    for key in options:
        if key in fields:
            raise ConfigError(f"pipeline has no key {key!r}: the run sets it")
    arguments = dict(source=make_source(run.config["data"]), processor=run.processor, **fields, **options)
    return build.call(make_train_iterator, arguments, "pipeline")


def make_conversations(
    config: Mapping[str, Any], processor: MultimodalProcessor, position: int, counters: Mapping[str, int]
) -> BatchIterator:
    """This process's rows of packed conversations from `position` on, from a run's `config`.

    `config["data"]`: the source's fields; `config["pipeline"]`: `pack`, `window`, `cache`, `workers`, `max_bad` and the
    other options of `make_conversation_iterator`. The iterator's `facts` say how full the rows are.
    """
    options = dict(config.get("pipeline") or {})
    fields = dict(
        batch_size=config["batch_size"],
        seed=config["seed"],
        position=position,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        counters=counters,
    )
    for key in options:
        if key in fields:
            raise ConfigError(f"pipeline has no key {key!r}: the run sets it")
    arguments = dict(source=make_source(config["data"]), processor=processor, **fields, **options)
    return build.call(make_conversation_iterator, arguments, "pipeline")
