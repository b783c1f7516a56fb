"""`jvlm data check` on conversations counts exactly what training would leave out, by cause, and names the first."""

import argparse
import json

import pytest

from jvlm.cli import data as cli
from jvlm.core.errors import ConfigError, UserError
from tests.data import pictures
from tests.data.dialogues import tokenizer_files, write_json


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(words))


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in tokenizer_files().items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"image_token_index": 258, "image_seq_length": 6}))
    return str(folder)


def turn(question: str, answer: str, image: str | None = "a.png") -> dict:
    said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return {"image": image, "conversations": said}


def test_every_cause_is_counted_and_its_first_offenders_named(tmp_path, model, capsys):
    (tmp_path / "a.png").write_bytes(pictures.encode(pictures.photo(8, 8)))
    (tmp_path / "half.png").write_bytes(pictures.encode(pictures.photo(30, 30))[:200])
    records = [turn(f"what is number {i}?", "red") for i in range(20)]
    records[3] = turn("what?", " ")
    records[4] = turn("what?", "")
    records[7] = turn("what?", "red", "gone.png")
    records[9] = turn("what?", "red", "half.png")
    records[11] = turn("x" * 90, "red")
    records[12] = turn("what?", "red")
    records[12]["conversations"][0]["value"] = "y" * 90 + "<image>"
    records[13] = turn("what?", "red " * 40)
    records[15]["image"] = ["a.png", "a.png"]
    path = write_json(tmp_path / "d.json", records)
    words = ("check", path, "--model", model, "--length", "80")
    assert call(*words, "--json", "--max-bad", "0.5") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bad"] == {
        "answer cut": 1,
        "corrupt picture": 1,
        "empty answer": 2,
        "image tokens cut": 1,
        "missing picture": 1,
        "pictures without a place": 1,
    }
    assert (result["samples"], result["good"], result["cut"]) == (20, 13, 1)
    assert result["first_bad"]["empty answer"][0].startswith("sample 3: d.json: record 4: an empty answer")
    assert "gone.png" in result["first_bad"]["missing picture"][0]
    assert result["first_bad"]["image tokens cut"] == [
        "sample 12: d.json: record 13: image tokens would be cut, 126 tokens for 80"
    ]
    assert result["distinct_pictures"] == 2
    assert result["tokens"]["max"] == result["tokens"]["limit"] == 80
    assert result["rows"] == 13
    assert call(*words) == 1
    captured = capsys.readouterr()
    assert "35.0% of the samples are bad, more than 5.0%" in captured.err
    assert "bad       2 empty answer" in captured.out
    assert "record 13: image tokens would be cut" in captured.out


def test_what_is_missing_is_asked_for(tmp_path, model):
    path = write_json(tmp_path / "d.jsonl", [turn("what?", "red")])
    with pytest.raises(ConfigError, match="give --model DIR"):
        call("check", path)
    with pytest.raises(UserError, match="no such directory"):
        call("check", path, "--model", str(tmp_path / "gone"))
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="give --picture-tokens"):
        call("check", path, "--model", model)
    files = tokenizer_files()
    (tmp_path / "model" / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in json.loads(files["tokenizer_config.json"]).items() if k != "chat_template"})
    )
    with pytest.raises(UserError, match="no chat template"):
        call("check", path, "--model", model)


def test_published_files_are_told_apart_by_what_they_hold(tmp_path, model, capsys):
    (tmp_path / "a.png").write_bytes(pictures.encode(pictures.photo(8, 8)))
    (tmp_path / "COCO_val2014_000000000001.jpg").write_bytes(pictures.jpeg(8, 8))
    asked = {"data_subtype": "val2014", "questions": [{"question_id": 1, "image_id": 1, "question": "what?"}]}
    answer = {"question_id": 1, "multiple_choice_answer": "red", "answers": [], "question_type": "what"}
    questions = write_json(tmp_path / "q.json", asked)
    annotations = write_json(tmp_path / "n.json", {"annotations": [answer]})
    documents = write_json(tmp_path / "i.jsonl", [{"texts": ["a red cat", None], "images": [None, "a.png"]}])
    captions = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}],
    }
    coco = write_json(tmp_path / "c.json", captions)
    conversations = ["--model", model, "--length", "80", "--json"]
    for words, kind in (
        (["check", questions, annotations, "--images", str(tmp_path), *conversations], {"what": 1}),
        (["check", documents, *conversations], {}),
        (["check", coco, "--format", "captioned", "--images", str(tmp_path), *conversations], {}),
    ):
        assert call(*words) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["good"], result["types"]) == (1, kind)
    assert call("check", coco, "--images", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["captions"]["total"] == 1
    assert call("pack", coco, str(tmp_path / "out"), "--images", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 1
    with pytest.raises(ConfigError, match="give their folder with --images"):
        call("check", coco)
    with pytest.raises(ConfigError, match="VQAv2 is QUESTIONS"):
        call("check", questions, "--model", model)
