"""`jvlm ask` says what transformers says where no chat template puts a prompt together but the processor does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, processors

import jvlm
from jvlm.evals.answering import QUESTION as QUESTION_SIZE
from tests.cli.directories import run_error, run_json
from tests.data.dialogues import tokenizer_files
from tests.interop.hf_cases import tower
from tests.interop.multimodal_cases import language
from tests.reference import torch, transformers

QUESTION = "what is it?"
LONG = "a?" * 18
"""More tokens than an instruction is padded to, within the Q-Former's positions."""
POSITIONS = 40
NAMES = {"blip-2": "Blip2", "instructblip": "InstructBlip", "paligemma": "PaliGemma"}
SIDE = {"height": 16, "width": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "it", "?", "a", "dog", "colour"]
"""Of the Q-Former, which reads instructions in a vocabulary of its own."""


def tokenizer(folder: Path, starts: bool = True) -> Any:
    """Bytes, behind a start token if `starts`."""
    files = tokenizer_files()
    made = Tokenizer.from_str(files["tokenizer.json"].decode())
    if starts:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 256)]
        )
    config = json.loads(files["tokenizer_config.json"])
    del config["chat_template"]
    (folder / "tokenizer.json").write_text(made.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return transformers.AutoTokenizer.from_pretrained(folder)


def bridged(kind: str, folder: Path) -> tuple[Any, Any]:
    """A BLIP-2 or an InstructBLIP, and its processor."""
    name = NAMES[kind]
    config = getattr(transformers, f"{name}Config")(
        vision_config=tower(image_size=16, patch_size=8),
        qformer_config=tower(vocab_size=len(WORDS), max_position_embeddings=POSITIONS),
        text_config=language("llama", vocab_size=260, max_position_embeddings=64), num_query_tokens=3,
        image_token_index=258,
    )  # fmt: skip
    images: Any = transformers.BlipImageProcessorPil(size=SIDE)
    given: list[Any] = [images, tokenizer(folder)]
    if kind == "instructblip":
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        given.append(transformers.BertTokenizer(str(folder / "vocab.txt")))
        (folder / "vocab.txt").unlink()
    processor = getattr(transformers, f"{name}Processor")(*given, num_query_tokens=3)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


def prefixed(folder: Path) -> tuple[Any, Any]:
    """A PaliGemma and its processor, which writes the start token itself."""
    vision = transformers.SiglipVisionConfig(**tower(image_size=16, patch_size=8), vision_use_head=False)
    text = language("gemma", head_dim=8, vocab_size=1600, max_position_embeddings=64)
    config = transformers.PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_index=258, projection_dim=32
    )
    images: Any = transformers.SiglipImageProcessorPil(size=SIDE, image_seq_length=4)
    processor = transformers.PaliGemmaProcessor(images, tokenizer(folder, starts=False))
    return transformers.PaliGemmaForConditionalGeneration(config), processor


@pytest.fixture(scope="module", params=list(NAMES))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory of transformers with random weights and its processor's files, and its kind."""
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model, processor = prefixed(path) if request.param == "paligemma" else bridged(request.param, path)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn_like(parameter) * 0.4)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path, request.param


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(file)
    return str(file)


def reference(folder: Path, kind: str, picture: str, question: str) -> tuple[list[int], dict[str, Any]]:
    """transformers' new tokens, and what its processor made of picture and question."""
    processor: Any = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    cls = getattr(transformers, f"{NAMES[kind]}ForConditionalGeneration")
    model: Any = cls.from_pretrained(folder).eval()
    arrays = processor(images=[Image.open(picture)], text=[question], return_tensors="np")
    inputs = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items() if name != "labels"}
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=257)
    expected = out[0].tolist()
    if expected[: inputs["input_ids"].shape[1]] == inputs["input_ids"][0].tolist():
        expected = expected[inputs["input_ids"].shape[1] :]
    return expected, inputs


def test_a_picture_and_a_question_are_put_together_as_the_processor_does(
    published: tuple[Path, str], picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, kind = published
    expected, inputs = reference(folder, kind, picture, QUESTION)
    base = ("--max-new-tokens", "6", "--question", QUESTION, "--image", picture)
    assert run_json(capsys, "ask", "--model", str(folder), *base)["tokens"] == expected
    if kind != "instructblip":
        return
    given = jvlm.load(folder)
    asker: Any = given.processor.bridge_tokenizer
    assert asker.encode(QUESTION) == inputs["qformer_input_ids"][0].tolist()
    # An instruction is read whole, up to the Q-Former's positions.
    assert QUESTION_SIZE < len(asker.encode(LONG)) < POSITIONS
    rest = ("--max-new-tokens", "6", "--image", picture, "--question")
    said = run_json(capsys, "ask", "--model", str(folder), *rest, LONG)
    assert said["tokens"] == reference(folder, kind, picture, LONG)[0]
    refused = run_error(capsys, "ask", "--model", str(folder), *rest, LONG + "a?a?")
    assert refused == (1, "jvlm ask: an instruction of 42 tokens, but the Q-Former has 40 positions; shorten it\n")
    # The Q-Former's own tokenizer goes wherever the model does.
    for format in ("hf", "jvlm"):
        jvlm.save(given, tmp_path / format, format=format)
        again = jvlm.load(tmp_path / format).processor
        assert again.fingerprint() == given.processor.fingerprint()
    for file in (tmp_path / "hf" / "qformer_tokenizer").iterdir():
        file.unlink()
    assert "qformer_tokenizer" in run_error(capsys, "ask", "--model", str(tmp_path / "hf"), *base)[1]
