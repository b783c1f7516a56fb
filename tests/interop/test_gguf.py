"""A GGUF file is the model and the tokenizer that transformers reads from it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jvlm
from jvlm.core.errors import UserError
from jvlm.interop.gguf_file import GgufFile
from tests.interop import gguf_files
from tests.reference import torch, transformers

ARCHITECTURES = ["llama", "qwen2", "gemma2"]
TEXTS = [
    "the theory in  there",
    " leading, inner  ",
    "12 312 x1",
    "naïve 日本\n\nline",
    "<|im_start|>user\nhi<|im_end|>",
    "",
]


AUTO: Any = transformers.AutoModelForCausalLM


def reference(path: Path) -> Any:
    return AUTO.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def logits(pretrained: Any, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(pretrained.model.apply)({"params": pretrained.params}, tokens).logits)


def assert_same_logits(pretrained: Any, theirs: Any) -> None:
    tokens = np.random.default_rng(0).integers(0, pretrained.model.vocab_size, (2, 9)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits(pretrained, tokens), expected, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"])
def test_every_type_gives_transformers_logits(kind: str, tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "model.gguf", kind=kind)
    assert_same_logits(jvlm.load(tmp_path, dtype="float32"), reference(path))


@pytest.mark.parametrize("arch", ARCHITECTURES[1:])
def test_every_architecture_gives_transformers_logits(arch: str, tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "model.gguf", arch, tied=arch != "qwen2")
    assert_same_logits(jvlm.load(path), reference(path))


@pytest.mark.parametrize("vocabulary", [gguf_files.byte_level, gguf_files.sentencepiece])
def test_the_tokenizer_is_transformers_before_and_after_export(vocabulary: Any, tmp_path: Path) -> None:
    path = gguf_files.write(tmp_path / "model.gguf", vocabulary=vocabulary())
    ours = jvlm.load(path)
    tokenizer = ours.processor.tokenizer
    assert tokenizer is not None
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    jvlm.save(ours, tmp_path / "exported")
    again: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in TEXTS:
        expected = theirs(text).input_ids
        assert tokenizer.encode(text) == expected == again(text).input_ids, text
        assert tokenizer.decode(expected) == theirs.decode(expected, skip_special_tokens=True)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    messages = [dict(role="user", content="the")]
    for other in (theirs, again):
        assert other.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\nthe<|im_end|>\n"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_exported_directory_opens_with_the_same_logits(arch: str, tmp_path: Path) -> None:
    ours = jvlm.load(gguf_files.write(tmp_path / "model.gguf", arch, kind="Q4_1", tied=True))
    jvlm.save(ours, tmp_path / "exported")
    again, info = AUTO.from_pretrained(tmp_path / "exported", output_loading_info=True, attn_implementation="eager")
    assert not any(info.values()), info
    assert_same_logits(ours, again.eval())
    again = jvlm.load(tmp_path / "exported")
    assert again.model == ours.model
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)


def test_what_cannot_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    gguf_files.write(path, kind="Q5_0")
    with pytest.raises(UserError, match=r"token_embd\.weight' is Q5_0"):
        jvlm.load(tmp_path)
    gguf_files.write(path, arch="falcon")
    with pytest.raises(UserError, match=r"architecture 'falcon' is unknown"):
        jvlm.load(tmp_path)
    gguf_files.write(path, vocabulary=gguf_files.byte_level() | dict(pre="smollm9"))
    with pytest.raises(UserError, match=r"pre-tokenizer 'smollm9'.*smollm"):
        jvlm.load(tmp_path)
    scaling: dict[str, Any] = {"rope.scaling.type": "longrope"}
    gguf_files.write(path, **scaling)
    with pytest.raises(UserError, match=r"scaled by 'longrope'"):
        jvlm.load(tmp_path)
    whole = gguf_files.write(path).read_bytes()
    for size in (0, 3, 30, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="copy it again"):
            jvlm.load(tmp_path)
    path.write_bytes(b"not" + whole)
    with pytest.raises(UserError, match="copy it again"):
        GgufFile(path)
    (tmp_path / "second.gguf").write_bytes(whole)
    with pytest.raises(UserError, match=r"2 \.gguf files"):
        jvlm.load(tmp_path)
