"""`jvlm ask` and `jvlm caption` say what transformers says of the same pictures, with the directory's own processor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jvlm
from jvlm.cli.main import run
from jvlm.evals.answerer import Prompt
from jvlm.evals.answering import ModelAnswerer
from tests.cli.directories import run_error, run_json
from tests.data.dialogues import tokenizer_files
from tests.interop.hf_cases import tower
from tests.notebook_cells import execute
from tests.reference import torch, transformers

QUESTION = "what is it?"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA of transformers with everything that its published directories hold."""
    path = tmp_path_factory.mktemp("llava")
    for name, data in tokenizer_files().items():
        (path / name).write_bytes(data)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path)
    vision: dict[str, Any] = dict(num_hidden_layers=2, image_size=16, patch_size=8)
    text: dict[str, Any] = dict(vocab_size=260, max_position_embeddings=128, num_hidden_layers=1, pad_token_id=0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower(**vision)),
        text_config=transformers.LlamaConfig(**tower(**text)), image_token_index=258,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.4)
    model.save_pretrained(path)
    images: Any = transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template, num_additional_image_tokens=1,
    )  # fmt: skip
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    out = [path / f"{name}.png" for name in "abc"]
    for file in out:
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(file)
    return list(map(str, out))


@pytest.fixture(scope="module")
def reference(directory: Path) -> Any:
    processor: Any = transformers.AutoProcessor.from_pretrained(directory, backend="pil")
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(directory).eval()

    def answer(messages: list[dict[str, Any]] | str, pictures: list[str], new: int) -> list[int]:
        text = messages
        if not isinstance(messages, str):
            text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(images=[Image.open(p) for p in pictures], text=text, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=257)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    return answer


def user(question: str, pictures: int) -> dict[str, Any]:
    return dict(role="user", content=[{"type": "image"}] * pictures + [dict(type="text", text=question)])


def test_questions_about_pictures_get_the_reference_s_answer(
    directory: Path, files: list[str], reference: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("--model", str(directory), "--max-new-tokens", "6", "--question", QUESTION)
    one = run_json(capsys, "ask", *base, "--image", files[0])
    assert one["tokens"] == reference([user(QUESTION, 1)], files[:1], 6)
    two = run_json(capsys, "ask", *base, "--image", *files[:2])
    assert two["tokens"] == reference([user(QUESTION, 2)], files[:2], 6)
    shown = run_json(capsys, "ask", *base, "--image", files[0], "--example", files[1], "colour?", "red")
    example = [user("colour?", 1), dict(role="assistant", content=[dict(type="text", text="red")])]
    assert shown["tokens"] == reference([*example, user(QUESTION, 1)], [files[1], files[0]], 6)
    raw = run_json(capsys, "ask", *base, "--image", files[0], "--raw")
    assert raw["tokens"] == reference(f"<image>{QUESTION}", files[:1], 6)
    assert len({tuple(said["tokens"]) for said in (one, two, shown, raw)}) > 1
    assert run("ask", [*base, "--image", files[0]]) == 0
    assert capsys.readouterr().out == one["answer"] + "\n"


def test_the_notebook_asks(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = execute("ask_a_model", MODEL=str(directory), NEW_TOKENS=3)
    assert all(total < 0 for total in names["sums"])
    # A caption, an answer, and a line for each that was to be chosen from.
    assert len(capsys.readouterr().out.splitlines()) >= 2 + len(names["ANSWERS"])


def test_captions_are_answers_to_the_picture_alone_in_the_order_given(
    directory: Path, files: list[str], reference: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("--model", str(directory), "--images", *files, "--max-new-tokens", "5", "--prompt", QUESTION)
    captions = run_json(capsys, "caption", *base, "--batch-size", "2")["captions"]
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory)
    for file, caption in zip(files, captions, strict=True):
        expected = tokenizer.decode(reference([user(QUESTION, 1)], [file], 5), skip_special_tokens=True)
        assert caption == expected.strip()


def test_likelihoods_of_a_batch_are_the_reference_s(directory: Path, files: list[str]) -> None:
    given = jvlm.load(directory)
    answerer = ModelAnswerer(given.model, {"params": given.params}, given.processor, [257], batch_size=2)
    prompts = [Prompt([user(QUESTION, 1)], files[:1]), Prompt([user("a", 2)], files[1:]), Prompt([user("b c", 0)])]
    sums, counts = answerer.loglikelihood(prompts, ["red", "a blue one", "x"])
    for at, prompt in enumerate(prompts):
        alone = answerer.loglikelihood([prompt], [["red", "a blue one", "x"][at]])
        assert counts[at] == alone[1][0] == len(["red", "a blue one", "x"][at])
        assert sums[at] == pytest.approx(alone[0][0], abs=1e-4)
    encoded = answerer.encode(prompts[0])
    whole = [*encoded.tokens.tolist(), *answerer.tokenizer.encode("red")]
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(directory).eval()
    pixels = torch.from_numpy(given.processor.images(files[:1]).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([whole]), pixel_values=pixels).logits.log_softmax(-1)[0]
    start = len(encoded.tokens)
    expected = sum(float(logs[start + at - 1, token]) for at, token in enumerate(whole[start:]))
    assert sums[0] == pytest.approx(expected, abs=1e-3)


def test_bad_input_is_one_line_before_any_compute(
    directory: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blind = tmp_path / "blind"
    blind.mkdir()
    for file in directory.iterdir():
        if file.name not in ("chat_template.jinja", "chat_template.json"):
            (blind / file.name).write_bytes(file.read_bytes())
    config = json.loads((blind / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for m in messages %}{{ m.content[-1].text }}{% endfor %}"
    (blind / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    base = ("--model", str(directory), "--question")
    cases = [
        (1, "no such picture", ("ask", *base, "a", "--image", "nowhere.png")),
        (1, "bad.png", ("ask", *base, "a", "--image", str(tmp_path / "bad.png"))),
        (1, "2 pictures for 1 image tokens", ("ask", *base, "<image> a", "--image", *files[:2])),
        (1, "no place for a picture", ("ask", "--model", str(blind), "--question", "a", "--image", files[0])),
        (1, "128 positions", ("ask", *base, "long " * 60, "--image", files[0])),
        (2, "--example is written by the chat template", ("ask", *base, "a", "--raw", "--example", files[0], "q", "a")),
        (1, "no such picture", ("caption", "--model", str(directory), "--images", "nowhere.png")),
        (2, "at least 1", ("caption", "--model", str(directory), "--images", files[0], "--batch-size", "0")),
    ]
    for status, text, (verb, *argv) in cases:
        found, said = run_error(capsys, verb, *argv)
        assert found == status and text in said, said
