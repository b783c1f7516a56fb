"""SmolLM2-135M-Instruct, a language model that comes inside a package, says what transformers says of the same file."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jvlm
from benchmarks.generation import TEXT, default_file
from jvlm.generate.generator import Generator
from jvlm.interop.pretrained import Pretrained
from tests.reference import torch, transformers

AUTO: Any = transformers.AutoModelForCausalLM
NEW = 16
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):",
    "The three primary colours are",
    "Water boils at a temperature of",
    "A short list of fruits:",
    "My favourite animal is the",
    "Dear Sir or Madam,",
    "To bake bread you need",
    "The opposite of hot is",
)


@pytest.fixture(scope="module")
def file() -> Path:
    return default_file()


@pytest.fixture(scope="module")
def ours(file: Path) -> Pretrained:
    return jvlm.load(file)


@pytest.fixture(scope="module")
def theirs(file: Path) -> Any:
    return AUTO.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


def test_ten_prompts_of_unequal_length_go_on_as_the_reference_does_one_by_one(
    file: Path, ours: Pretrained, theirs: Any
) -> None:
    tokenizer: Any = ours.processor.tokenizer
    their_tokenizer: Any = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Unrolled layers would be faster to run and slower to compile.
    writer = Generator(
        ours.model, {"params": ours.params}, ends=[tokenizer.eos_id], pad=tokenizer.pad_id, unrolled=False
    )
    found = writer.generate([tokenizer.encode(prompt) for prompt in PROMPTS], NEW)
    for prompt, new in zip(PROMPTS, found, strict=True):
        given = their_tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            out = theirs.generate(**given, max_new_tokens=NEW, do_sample=False, pad_token_id=tokenizer.pad_id)
        expected = out[0, given["input_ids"].shape[1] :].tolist()
        assert new == expected, prompt
        assert tokenizer.decode(new) == their_tokenizer.decode(expected, skip_special_tokens=True)


def test_the_exported_directory_has_the_file_s_logits(ours: Pretrained, theirs: Any, tmp_path: Path) -> None:
    tokenizer: Any = ours.processor.tokenizer
    tokens = np.asarray([tokenizer.encode(TEXT)], np.int32)
    jvlm.save(ours, tmp_path / "model")
    again = AUTO.from_pretrained(tmp_path / "model").eval()
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
        exported = again(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_array_equal(exported, expected)
    logits = np.asarray(jax.jit(ours.model.apply)({"params": ours.params}, tokens).logits)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
