"""`jvlm evaluate` writes every score beside chance and blind, on the demo's data and on a folder of one's own."""

import json
import shutil
from pathlib import Path

import pytest

from jvlm.core.errors import ConfigError
from jvlm.evals import suites
from jvlm.evals.suites import SUITES, Suite
from tests.cli.directories import run_error, run_json
from tests.evals import tiny

FIELDS = {"value", "low", "high", "chance", "blind", "n"}
RECALLS = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's suites on a few samples: their own size is for the demo to run."""
    tasks = {
        "retrieval_style": Suite("retrieval", lambda _: dict(data=tiny.memory(9, 9)), "small"),
        "retrieval_style_pixels": Suite(
            "nearest_pixels", lambda _: dict(data=tiny.memory(9, 3), train=tiny.memory(9, 3)), "small"
        ),
    }
    monkeypatch.setattr(suites, "SUITES", tasks)


def check(scores: dict) -> None:
    for metric, score in scores.items():
        assert set(score) == FIELDS, metric
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1, metric
        assert 0 <= score["chance"] <= 1, metric
        assert 0 <= score["blind"] <= 1, metric
        assert score["n"] > 0, metric


@pytest.mark.usefixtures("small")
def test_output_holds_what_is_promised(clip: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "scores.json"
    argv = ("--model", clip, "--suite", "retrieval_style", "retrieval_style_pixels", "--output", str(out))
    said = run_json(capsys, "evaluate", *argv)
    assert json.loads(out.read_text()) == said
    assert list(said) == ["retrieval_style", "retrieval_style_pixels"]
    for scores in said.values():
        assert list(scores) == RECALLS
        check(scores)
    assert said["retrieval_style_pixels"]["image_to_text_r1"]["value"] == 1


def test_the_demo_s_suites_have_their_sizes() -> None:
    style = suites.make_evaluator("retrieval_style").pairs()
    assert (len(style.samples), len(style.texts)) == (400, 400)
    concepts = suites.make_evaluator("retrieval_concepts").pairs()
    assert (len(concepts.samples), len(concepts.texts)) == (250, 50)
    for name, suite in SUITES.items():
        if not suite.user_data:
            suites.make_evaluator(name, judge="clip" if suite.judged else None)
    with pytest.raises(ConfigError, match="needs --judge DIR"):
        suites.make_evaluator("clip_score_emoji")


@pytest.mark.usefixtures("small")
def test_a_workdir_keeps_its_scores_and_gets_a_report(clip: str, tmp_path: Path, capsys, monkeypatch) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(clip, workdir)
    (workdir / "checkpoints").mkdir()
    (workdir / "results.json").write_text('{"other": {}}')
    run_json(capsys, "evaluate", "--model", str(workdir), "--suite", "retrieval_style")
    assert list(json.loads((workdir / "results.json").read_text())) == ["other", "retrieval_style"]
    report = (workdir / "report.html").read_text()
    assert "a number 3 of kind 3" in report
    assert "image_to_text_r10" in report


def test_a_folder_of_one_s_own(clip: str, tmp_path: Path, capsys) -> None:
    data = tiny.pictures(6)
    table = tmp_path / "table"
    table.mkdir()
    for at, picture in enumerate(data):
        (table / f"{at}.png").write_bytes(picture)
        folder = tmp_path / "classes" / ("big_cat", "dog")[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.png").write_bytes(picture)
    lines = [json.dumps({"image": f"{at}.png", "caption": [f"text {at}", f"more {at}"]}) for at in range(6)]
    (table / "captions.jsonl").write_text("\n".join(lines))
    out = ("--output", str(tmp_path / "o.json"))
    scores = run_json(capsys, "evaluate", "--model", clip, "--suite", "retrieval", "--data", str(table), *out)
    check(scores["retrieval"])
    assert scores["retrieval"]["text_to_image_r1"]["n"] == 12
    classes = str(tmp_path / "classes")
    scores = run_json(capsys, "evaluate", "--model", clip, "--suite", "zero_shot", "--data", classes, *out)
    check(scores["zero_shot"])
    assert scores["zero_shot"]["accuracy_top1"]["chance"] == 0.5


def test_wrong_input_is_one_line_that_names_it(clip: str, tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    two = tmp_path / "two"
    two.mkdir()
    for name in ("held-out.csv", "train.jsonl"):
        (two / name).write_text("")
    cases = [
        (2, "'retrieval_style'", ("--suite", "retrieval_stile")),
        (2, "'retrieval' needs --data DIR", ("--suite", "retrieval")),
        (2, "leave --data away", ("--suite", "retrieval_style", "--data", str(empty))),
        (1, "does not exist; give shards", ("--suite", "zero_shot", "--data", str(tmp_path / "none"))),
        (1, "no pictures", ("--suite", "zero_shot", "--data", str(empty))),
        (1, "2 tables, name one of them: held-out.csv, train.jsonl", ("--suite", "retrieval", "--data", str(two))),
    ]
    for status, text, argv in cases:
        found, said = run_error(capsys, "evaluate", "--model", clip, *argv)
        assert found == status, said
        assert text in said


@pytest.mark.usefixtures("small")
def test_people_get_a_table(clip: str, tmp_path: Path, capsys, monkeypatch) -> None:
    from jvlm.cli.main import run

    monkeypatch.setenv("COLUMNS", "100")
    argv = ["--model", clip, "--suite", "retrieval_style", "--output", str(tmp_path / "o.json")]
    assert run("evaluate", argv) == 0
    said = capsys.readouterr().out
    assert "image_to_text_r1" in said
    assert "95 % interval" in said
