"""The report holds what the run wrote, needs nothing else, and survives what is missing or broken."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from jvlm.evals.examples import save_examples
from jvlm.train.report import read_metrics, write_report
from jvlm.train.report_retrieval import order_queries

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags close in order, and gathers text and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def score(value: float) -> dict:
    return dict(value=value, low=value - 0.05, high=value + 0.05, chance=0.01, blind=0.02, n=400)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "a run & more"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(steps=90, batch_size=32, note="<b>bold</b>")))
    (folder / "status.json").write_text(json.dumps(dict(status="failed", step=88, reason="loss <nan>")))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 89):
            loss = math.nan if step == 50 else 3 / step
            record = dict(step=step, loss=loss, lr=1e-3, scale=14.0, images_per_second=200.0, skipped=2)
            file.write(json.dumps(record) + "\n")
        file.write(json.dumps({"step": 40, "style/image_to_text_r1": 0.3, "style/text_to_image_r1": 0.2}) + "\n")
        file.write(json.dumps({"step": 80, "style/image_to_text_r1": 0.5, "style/text_to_image_r1": 0.4}) + "\n")
        file.write('{"step": 89, "los')
    results = dict(style=dict(r1=score(0.612)), style_pixels=dict(r1=score(0.445)), concepts=dict(r1=score(0.2)))
    (folder / "results.json").write_text(json.dumps(results))
    rng = np.random.default_rng(0)
    ids = np.arange(20)
    arrays = dict(
        similarity=rng.normal(size=(20, 20)).astype(np.float32),
        thumbnail=rng.integers(0, 256, (20, 48, 48, 3), dtype=np.uint8),
        text=np.asarray([f"text <{i}>" for i in range(20)]),
        image_id=ids,
        text_id=ids,
    )
    save_examples(folder / "report", "style", arrays)
    return folder


def test_the_report_stands_alone_and_holds_everything(workdir: Path) -> None:
    text = Path(write_report(workdir)).read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.search(r"https?://|url\(|@import", text)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    words = " ".join(page.words)
    for expected in ("a run & more", "failed: loss <nan>", "88 / 90", "61.2", "56.2 to 66.2", "44.5", "<b>bold</b>"):
        assert expected in words, expected
    for title in ("Loss", "Learning rate", "Scale of the logits", "Throughput", "style", "updates refused"):
        assert title in page.words, title
    # One column of the baseline instead of a table of its own.
    assert "style_pixels" not in words
    assert page.words.count("nearest pixels") == 1
    assert sum("find their" in word for word in page.words) == 4


def test_painted_pictures_are_shown_with_how_they_came_to_be(workdir: Path) -> None:
    rng = np.random.default_rng(0)
    for step in (10, 80):
        arrays = dict(
            sample=rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8),
            prompt=np.asarray(["a <dog>", "two", "three"]),
            score=np.asarray([0.5, 0.25, 0.1], np.float32),
            rank=np.asarray([1, 7, 1]),
        )
        save_examples(folder := workdir / "report", f"painted@{step:08d}", arrays)
    save_examples(folder, "other@0001", dict(sample=arrays["sample"]))
    page = Page(Path(write_report(workdir)).read_text())
    words = " ".join(page.words)
    assert "painted, step 80" in words and "step 10" in page.words and "a <dog>" in page.words
    assert "3 prompts, 2 of them ranked first" in words
    assert "other" not in words


def test_an_empty_workdir_gives_a_page_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    Page(Path(write_report(tmp_path)).read_text())
    for name in ("config.json", "status.json", "results.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{broken")
    Page(Path(write_report(tmp_path)).read_text())


def test_metrics_come_in_the_order_of_steps_without_the_cut_line(workdir: Path) -> None:
    records = read_metrics(epath.Path(workdir) / "metrics.jsonl")
    steps = [record["step"] for record in records]
    assert steps == sorted(steps)
    assert len(steps) == 90


def test_queries_go_from_best_to_worst_by_margin() -> None:
    similarity = np.asarray([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [np.nan, 0.4, 0.4]])
    own = np.eye(3, dtype=bool)
    found = order_queries(similarity, own)
    assert [f.query for f in found] == [0, 2, 1]
    assert [f.rank for f in found] == [1, 2, 2]
    assert found[1].top == (1, 2, 0)  # of two equals the wrong one first, NaN last
    assert [f.answer for f in found] == [0, 2, 1]


def test_a_query_without_right_or_without_wrong_answers_is_left_out() -> None:
    own = np.asarray([[True, True], [False, False], [True, False]])
    assert [f.query for f in order_queries(np.ones((3, 2)), own)] == [2]
