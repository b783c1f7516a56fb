"""`jvlm ask` gives transformers' answer to the same rendered question, from a GGUF and from a directory."""

import io
from pathlib import Path
from typing import Any

import pytest

import jvlm
from jvlm.cli.main import run
from tests.cli.directories import run_error, run_json
from tests.interop import gguf_files
from tests.reference import torch, transformers

QUESTION = "the inner 12"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    gguf_files.write(folder / "model.gguf", kind="F32")
    return folder


@pytest.fixture(scope="module")
def exported(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model"
    jvlm.save(jvlm.load(gguf), path)
    return path


def reference(directory: Path, raw: bool, new: int, **options: Any) -> tuple[str, list[int]]:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(directory).eval()
    if raw:
        ids = tokenizer(QUESTION, return_tensors="pt").input_ids
    else:
        messages = [dict(role="user", content=QUESTION)]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0, **options
        )
    tokens = out[0, ids.shape[1] :].tolist()
    return tokenizer.decode(tokens, skip_special_tokens=True), tokens


@pytest.mark.parametrize("raw", [False, True])
def test_the_answer_is_transformers(gguf: Path, exported: Path, raw: bool, capsys) -> None:
    answer, tokens = reference(exported, raw, 9)
    for source in (gguf, exported):
        argv = ("--model", str(source), "--question", QUESTION, "--max-new-tokens", "9", *(["--raw"] if raw else []))
        assert run_json(capsys, "ask", *argv) == dict(answer=answer, tokens=tokens)


def test_beams_and_penalty_reach_the_search(exported: Path, capsys) -> None:
    argv = ("--model", str(exported), "--question", QUESTION, "--max-new-tokens", "7")
    _, expected = reference(exported, False, 7, num_beams=3, repetition_penalty=1.9)
    said = run_json(capsys, "ask", *argv, "--num-beams", "3", "--repetition-penalty", "1.9")
    assert said["tokens"] == expected != run_json(capsys, "ask", *argv)["tokens"]


def test_the_streamed_answer_is_the_answer(exported: Path, capsys) -> None:
    argv = ["--model", str(exported), "--question", QUESTION, "--max-new-tokens", "9"]
    answer = run_json(capsys, "ask", *argv)["answer"]
    assert run("ask", argv) == 0
    assert capsys.readouterr().out == answer + "\n"


def test_a_conversation_carries_on(exported: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--model", str(exported), "--max-new-tokens", "5"]
    first = run_json(capsys, "ask", *argv, "--question", "the")["answer"]
    monkeypatch.setattr("sys.stdin", io.StringIO("the\n\nthe\n"))
    assert run("ask", [*argv, "--chat"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(first + "\n")
    assert said != f"{first}\n{first}\n"


def test_wrong_input_is_one_line_that_names_it(
    exported: Path, clip: str, pictures: list[str], tmp_path: Path, capsys
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no")
    base = ("--model", str(exported))
    cases = [
        (2, "--question Q or --chat", base),
        (2, "--chat goes with neither", (*base, "--chat", "--json")),
        (2, "at least 1", (*base, "--question", "a", "--num-beams", "0")),
        (2, "top-p", (*base, "--question", "a", "--temperature", "1", "--top-p", "2")),
        (1, "text only", (*base, "--question", "a", "--image", pictures[0])),
        (1, "writes no text", ("--model", clip, "--question", "a")),
        (1, "copy it again", ("--model", str(tmp_path), "--question", "a")),
        (1, "64 positions", (*base, "--question", "the " * 80)),
    ]
    for status, text, argv in cases:
        found, said = run_error(capsys, "ask", *argv)
        assert found == status, said
        assert text in said
