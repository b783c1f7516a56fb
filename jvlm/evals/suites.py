"""Evaluations by name: those on the demo's data, and those on a folder that the user names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jvlm.core import build
from jvlm.core.errors import ConfigError, UserError
from jvlm.data import emoji
from jvlm.data.recognised import recognised
from jvlm.evals import EVALUATORS
from jvlm.evals.class_folder import ClassFolder

Fields = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """`fields` of an evaluator; `user_data` says that they come from the folder given with `--data`, `judged` is the
    one that `--judge` gives.
    """

    evaluator: str
    fields: Callable[[Path], Fields]
    about: str
    user_data: bool = False
    judged: str | None = None


def _emoji(*splits: str) -> Fields:
    return {"name": "tar", "paths": [str(path) for split in splits for path in emoji.shards(split)]}


def _retrieval(split: str) -> Callable[[Path], Fields]:
    return lambda _: dict(data=_emoji(split), captions=1, positives="label")


def _pixels(split: str) -> Callable[[Path], Fields]:
    return lambda _: dict(data=_emoji(split), train=_emoji("train"))


def _train_test(folder: Path) -> Fields:
    return dict(train=user_data(folder / "train"), data=user_data(folder / "test"))


def _emoji_train_test(_: Path) -> Fields:
    return dict(train=_emoji("train"), data=_emoji("style"))


def _easy_vqa(**fields: Any) -> Callable[[Path], Fields]:
    return lambda _: dict(data=dict(name="easy_vqa", split="test"), **fields)


SUITES: dict[str, Suite] = {
    "retrieval_style": Suite("retrieval", _retrieval("style"), "400 emoji in an art style never trained on"),
    "retrieval_style_pixels": Suite("nearest_pixels", _pixels("style"), "the same by nearest pixels, without a model"),
    "retrieval_concepts": Suite("retrieval", _retrieval("concepts"), "50 emoji never trained on, in five styles"),
    "retrieval_validation": Suite("retrieval", _retrieval("validation"), "the held-out style's other emoji"),
    "retrieval_validation_pixels": Suite("nearest_pixels", _pixels("validation"), "the same by nearest pixels"),
    "zero_shot_style": Suite(
        "zero_shot",
        lambda _: dict(data=_emoji("style"), templates="plain"),
        "the held-out style, classified by the emoji's names",
    ),
    "linear_probe_style": Suite("linear_probe", _emoji_train_test, "the held-out style, fitted on the four others"),
    "knn_style": Suite("knn", _emoji_train_test, "the held-out style, by its neighbours in the four others"),
    "easy_vqa": Suite("exact_match", _easy_vqa(max_new_tokens=3), "easy-VQA's 9,673 questions about unseen pictures"),
    "easy_vqa_choice": Suite("multiple_choice", _easy_vqa(), "the same by the likeliest of the type's answers"),
    "conversations": Suite(
        "exact_match", lambda d: dict(data=questions(d)), "DIR/*.json or .jsonl: asked, answered", True
    ),
    "clip_score_emoji": Suite(
        "clip_score", lambda _: dict(data=_emoji("style")), "400 trained emoji painted from their names", judged="judge"
    ),
    "distribution_emoji": Suite(
        "distribution", lambda _: dict(data=_emoji("style")), "the same as a whole, beside their art", judged="features"
    ),
    "reconstruction_emoji": Suite(
        "reconstruction", lambda _: dict(data=_emoji("style")), "the held-out style, given back by an autoencoder"
    ),
    "clip_score": Suite(
        "clip_score", lambda d: dict(data=user_data(d)), "DIR: captions, painted", user_data=True, judged="judge"
    ),
    "distribution": Suite(
        "distribution", lambda d: dict(data=user_data(d)), "DIR: captions, painted", user_data=True, judged="features"
    ),
    "reconstruction": Suite("reconstruction", lambda d: dict(data=user_data(d)), "DIR: pictures", user_data=True),
    "retrieval": Suite("retrieval", lambda d: dict(data=user_data(d)), "DIR or table: pictures with captions", True),
    "zero_shot": Suite("zero_shot", lambda d: dict(data=user_data(d)), "DIR/CLASS/PICTURE, or labelled shards", True),
    "linear_probe": Suite("linear_probe", _train_test, "DIR/train and DIR/test, each as for zero_shot", True),
    "knn": Suite("knn", _train_test, "DIR/train and DIR/test, each as for zero_shot", True),
}


def user_data(path: Path) -> Any:
    """A source from what `data.recognised` knows, else from a folder with a folder for each class.

    UserError when it is neither, or a folder of several tables.
    """
    return recognised(path) or ClassFolder(str(path))


def questions(folder: Path) -> Fields:
    """The instruction data of a folder: its one JSON or JSONL file, UserError for none or several."""
    files = sorted(path for suffix in ("*.json", "*.jsonl") for path in folder.glob(suffix))
    if len(files) != 1:
        raise UserError(f"{folder}: {len(files)} .json or .jsonl files; an evaluation takes one, pictures beside it")
    return {"name": "instructions", "path": str(files[0])}


def make_evaluator(name: str, data: str | None = None, judge: str | None = None) -> Callable[..., Any]:
    """The evaluator of a suite. ConfigError for an unknown suite, or for `data` or `judge` missing or not taken."""
    suite = build.lookup(SUITES, name, "suite")
    if suite.user_data and data is None:
        raise ConfigError(f"suite {name!r} needs --data DIR ({suite.about})")
    if data is not None and not suite.user_data:
        raise ConfigError(f"suite {name!r} brings its own data; leave --data away")
    if suite.judged and judge is None:
        raise ConfigError(f"suite {name!r} needs --judge DIR, such as a CLIP ({suite.about})")
    fields = suite.fields(Path(data or ".")) | ({suite.judged: judge} if suite.judged else {})
    return build.call(build.lookup(EVALUATORS, suite.evaluator, "evaluator"), fields, f"evaluator {suite.evaluator!r}")


def check_names(names: Iterable[str]) -> None:
    """ConfigError for the first unknown suite: before a model is read, not after."""
    for name in names:
        build.lookup(SUITES, name, "suite")
