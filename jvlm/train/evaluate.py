"""Evaluations of a run: the suites of its configuration, when they are due, and what they found."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
from etils import epath

from jvlm.core import build
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.files import write_json
from jvlm.evals import EVALUATORS
from jvlm.evals.answering import ModelAnswerer
from jvlm.evals.encoder import Encoder, ends_by_itself
from jvlm.evals.painter import Painter
from jvlm.evals.samples import open_data
from jvlm.evals.score import Subject, score, subject_of
from jvlm.evals.suites import make_evaluator
from jvlm.generate.prompts import ends
from jvlm.train.pretrained import load
from jvlm.train.report import write_report
from jvlm.train.setup import Run
from jvlm.train.state import TrainState
from jvlm.train.writer import Terminal, Writers
from jvlm.transforms.freeze import combine


def evaluator_of(name: str, fields: Mapping[str, Any]) -> Any:
    """The evaluator of `{"evaluator": a key of EVALUATORS, **fields}`, or, without fields, of the suite called `name`.

    ConfigError names what is wrong with it.
    """
    fields = dict(fields)
    if not fields:
        return make_evaluator(name)
    kind = fields.pop("evaluator", None)
    if kind is None:
        raise ConfigError(f"evals.{name} needs the field 'evaluator'")
    return build.call(build.lookup(EVALUATORS, kind, "evaluator"), fields, f"evals.{name}")


def opened(suite: Any, name: str) -> Any:
    """The evaluator `evals.NAME` with its data opened. UserError where there is none."""
    sources = {}
    for key in ("data", "train"):
        if (value := getattr(suite, key, None)) is not None:
            try:
                sources[key] = open_data(value)
            except UserError as error:
                raise type(error)(f"evals.{name}.{key}: {error}") from error
    return replace(suite, **sources) if sources else suite


class Evaluations:
    """`config.evals`: suites by name, run every `config.eval_every` steps (0: at the end only)."""

    def __init__(self, run: Run, folder: epath.Path) -> None:
        self._run, self._folder = run, folder
        # Opened now, so that data that is not there is said before the training.
        self._suites = {
            name: opened(evaluator_of(name, fields), name) for name, fields in (run.config.get("evals") or {}).items()
        }
        self._every = run.config.get("eval_every", 0)
        self._tower = functools.cache(load_tower)

    def due(self, step: int) -> bool:
        """Whether to evaluate after `step`; the last step is `finish`'s."""
        return bool(self._every) and step % self._every == 0 and step < self._run.config["steps"]

    def run(self, state: TrainState, step: int, writers: Writers, terminal: Terminal) -> dict[str, Any]:
        """Scores of every suite, written to the metrics and returned as plain values."""
        if not self._suites:
            return {}
        makers: dict[str, Callable[[TrainState], Subject]] = dict(
            encoder=self._encoder, reconstructor=self._encoder, answerer=self._answerer, painter=self._painter
        )
        subjects = {kind: makers[kind](state) for kind in set(map(subject_of, self._suites.values()))}
        folder = self._folder / "report"
        results = {
            name: score(name, suite, subjects[subject_of(suite)], folder, step) for name, suite in self._suites.items()
        }
        record = {f"{name}/{metric}": s["value"] for name, scores in results.items() for metric, s in scores.items()}
        writers.write({"step": step, **record})
        for name, scores in results.items() if step < self._run.config["steps"] else ():
            shown = "  ".join(f"{metric} {found['value']:.3f}" for metric, found in scores.items())
            terminal.say(f"step {step}  {name}  {shown}")
        if step < self._run.config["steps"] and jax.process_index() == 0:
            write_report(self._folder)
        return results

    def _encoder(self, state: TrainState) -> Encoder:
        return Encoder(
            self._run.task.predict_fns(),
            variables(state),
            self._run.processor,
            self._run.mesh,
            rules=self._run.rules,
            cut_padding=ends_by_itself(self._run.model),
        )

    def _answerer(self, state: TrainState) -> ModelAnswerer:
        processor = self._run.processor
        published = self._run.source.generation if self._run.source else {}
        stops = ends(published, {}, processor.tokenizer) if processor.tokenizer else []
        return ModelAnswerer(self._run.model, variables(state), processor, stops, unrolled=False)

    def _painter(self, state: TrainState) -> Painter:
        run = self._run
        return Painter(run.model, variables(state), run.processor, self._tower, run.mesh, rules=run.rules)

    def finish(self, state: TrainState, step: int, writers: Writers, terminal: Terminal) -> None:
        """The evaluation at the end of a run, also as `results.json`."""
        results = self.run(state, step, writers, terminal)
        if results and jax.process_index() == 0:
            write_json(self._folder / "results.json", results)


def load_tower(directory: str) -> Encoder:
    """The model in `directory` as what looks at painted pictures. UserError where it takes none."""
    found = load(directory)
    if found.processor.image is None:
        raise UserError(f"{directory}: the directory has no image preprocessing; give a vision tower or a CLIP")
    return Encoder.for_model(found.model, {"params": found.params, **found.state}, found.processor)


def variables(state: TrainState) -> dict[str, Any]:
    """What a model is applied with: averaged parameters where the run keeps an average."""
    trained = state.params if state.average is None else state.average
    return {"params": combine(trained, state.frozen), **state.state}
