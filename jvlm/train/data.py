"""The training data of a run: a source or a mixture from the configuration, read from a position on."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jvlm.core import build
from jvlm.core.errors import ConfigError, UserError
from jvlm.data import DATASETS
from jvlm.data.annotated import Annotated
from jvlm.data.augment import Augment
from jvlm.data.conversation_batches import make_conversation_iterator
from jvlm.data.mixture import Mixture
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.pipeline import BatchIterator, Reading, make_train_iterator
from jvlm.train.config import tuples
from jvlm.train.setup import Run


def make_source(fields: Mapping[str, Any]) -> Any:
    """The source of `{"name": a key of DATASETS, **fields}`, or of `{"mixture": [{..., "weight": w}, ...]}`.

    Of samples or of conversations, as the dataset is. Fields of `annotated.Annotated` may stand beside any other.
    """
    fields = dict(fields)
    if said := {key: fields.pop(key) for key in ("prompts", "loss_weight", "label") if key in fields}:
        return Annotated(make_source(fields), **said)
    if parts := fields.pop("mixture", None):
        if fields:
            raise ConfigError(f"a mixture has no field {next(iter(fields))!r} beside its parts")
        weights = [part.get("weight", 1.0) for part in parts]
        return Mixture([make_source({k: v for k, v in part.items() if k != "weight"}) for part in parts], weights)
    name = fields.pop("name", "?")
    return build.call(build.lookup(DATASETS, name, "dataset"), fields, f"dataset {name!r}")


def make_data(run: Run, position: int, counters: Mapping[str, int]) -> BatchIterator:
    """This process's batches from `position` on: of captioned pictures, or of conversations where the run learns those.

    `config.data`: the source's fields; `config.pipeline`: `augment` (fields of Augment), `buckets` (fields of Buckets),
    `group`, `workers`, `max_bad` and the other options of `make_train_iterator`, or those of
    `make_conversation_iterator`. UserError where a row of conversations holds more answer tokens than the task looks
    at.
    """
    if run.conversations is not None:
        batches = make_conversations(run.config, run.conversations, position, counters)
        most = getattr(run.task, "answers", None)
        if most is not None and batches.facts["row_answers"] > most:
            raise UserError(
                f"a row holds {batches.facts['row_answers']} tokens of answers, task.answers is {most}; raise it"
            )
        return batches
    options = dict(run.config.get("pipeline") or {})
    augment = build.call(Augment, tuples(options.pop("augment", None) or {}), "pipeline.augment")
    options.pop("buckets", None)
    more: dict[str, Any] = dict(processor=run.processor, augment=augment, label="label" in run.batch)
    more |= dict(sizes="sizes" in run.batch, buckets=run.buckets)
    if "moments" in run.batch:
        factor = run.model.vae.factor
        kept = tuple((height // factor, width // factor) for height, width in run.buckets)
        more |= dict(moments=run.batch["moments"].shape[1:], buckets=kept)
    return _iterate(make_train_iterator, run.config, options, position, counters, more)


def make_conversations(
    config: Mapping[str, Any], processor: MultimodalProcessor, position: int, counters: Mapping[str, int]
) -> BatchIterator:
    """This process's rows of packed conversations from `position` on, from a run's `config`.

    `config["data"]`: the source's fields; `config["pipeline"]`: `pack`, `window`, `cache`, `workers`, `max_bad` and the
    other options of `make_conversation_iterator`. The iterator's `facts` say how full the rows are.
    """
    options = dict(config.get("pipeline") or {})
    return _iterate(make_conversation_iterator, config, options, position, counters, dict(processor=processor))


def _iterate(
    make: Callable[..., BatchIterator], config: Mapping[str, Any], options: Mapping[str, Any], position: int,
    counters: Mapping[str, int], more: Mapping[str, Any],
) -> BatchIterator:  # fmt: skip
    fields = dict(
        batch_size=config["batch_size"],
        seed=config["seed"],
        position=position,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        counters=counters,
        **more,
    )
    for key in options:
        if key in fields:
            raise ConfigError(f"pipeline has no key {key!r}: the run sets it")
    return build.call(make, dict(source=make_source(config["data"]), **fields, **options), "pipeline", Reading)
