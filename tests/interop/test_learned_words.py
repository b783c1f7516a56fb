"""Textual inversion: learned words are read and written as diffusers has them, and training moves nothing else."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jvlm
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.tree import flatten
from jvlm.data.emoji.source import EmojiSource
from jvlm.data.learned_words import encode, named_rows, rows_of
from jvlm.data.processor import Processor
from jvlm.data.tokenizers import clip_tokenizer
from jvlm.interop import adapters
from jvlm.interop.pretrained import Pretrained
from jvlm.train.config import load_config
from jvlm.train.loop import train
from jvlm.transforms.adapters import attach
from jvlm.transforms.methods import make_method
from tests.cli.pipelines import PIPELINES
from tests.interop import lora_files
from tests.reference_diffusers import torch

TABLE = "text/text_tower/token_embed/embedding"
TEXTS = ["a <cat-toy> on a red apple", "two words"]
CONFIG = Path(__file__).resolve().parents[2] / "configs" / "ldm_tiny_emoji_pretrain.py"


@pytest.fixture(scope="module", params=PIPELINES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Pretrained]:
    folder = tmp_path_factory.mktemp("pipeline")
    PIPELINES[request.param](folder).save_pretrained(folder / "model")
    return request.param, folder / "model", jvlm.load(folder / "model")


def told(m: Pretrained, texts: list[str]) -> np.ndarray:
    run = jax.jit(lambda params, tokens: m.model.apply({"params": params}, tokens, method="condition").context)
    return np.asarray(run(m.params, jnp.asarray(m.processor.texts(texts))))


def theirs(directory: Path, kind: str, folder: Path) -> np.ndarray:
    """The condition in a fresh pipeline that has loaded the words in a folder."""
    pipeline = lora_files.fresh(directory, kind)
    pipeline.load_textual_inversion(folder, weight_name="learned_embeds.safetensors")
    if hasattr(pipeline, "text_encoder_2"):
        other = dict(text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2)
        pipeline.load_textual_inversion(folder, weight_name="learned_embeds_2.safetensors", **other)
    with torch.no_grad():
        return pipeline.encode_prompt(
            prompt=TEXTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )[0].numpy()


@pytest.mark.parametrize("vectors", [1, 2])
def test_a_word_of_diffusers_opens_here_and_ours_opens_there(
    saved: tuple[str, Path, Pretrained], vectors: int, tmp_path: Path
) -> None:
    kind, directory, base = saved
    (tmp_path / "theirs").mkdir()
    rng = np.random.default_rng(0)
    for file, width in (("learned_embeds", 12), ("learned_embeds_2", 8)):
        rows = rng.normal(size=(vectors, width)).astype(np.float32)
        save_file({"<cat-toy>": rows}, tmp_path / "theirs" / f"{file}.safetensors")
    wanted = theirs(directory, kind, tmp_path / "theirs")
    m = adapters.load(tmp_path / "theirs", base)
    assert (m.processor.texts(TEXTS) < 0).sum() == vectors
    np.testing.assert_allclose(told(m, TEXTS), wanted, atol=1e-5, rtol=1e-5)
    assert np.abs(told(base, TEXTS) - wanted).max() > 1e-2
    np.testing.assert_array_equal(told(base, TEXTS[1:]), told(m, TEXTS[1:]))
    jvlm.save(m, tmp_path / "ours", format="textual-inversion")
    for file in (tmp_path / "ours").iterdir():
        (name, rows), (_, before) = (*load_file(file).items(), *load_file(tmp_path / "theirs" / file.name).items())
        assert name == "<cat-toy>"
        np.testing.assert_array_equal(rows, before)
    np.testing.assert_array_equal(theirs(directory, kind, tmp_path / "ours"), wanted)


def test_words_are_found_in_texts_wherever_they_stand() -> None:
    tokenizer = clip_tokenizer()
    start, *cat, end = tokenizer.encode("a cat")
    names = (*named_rows("<x>", 2), "<xy>")
    assert names == ("<x>", "<x>_1", "<xy>") and rows_of(names) == {"<x>": [0, 1], "<xy>": [2]}
    assert encode("a cat <x>", tokenizer, names) == [start, *cat, -1, -2, end]
    assert encode("<xy>a cat<x> a cat", tokenizer, names) == [start, -3, *cat, -1, -2, *cat, end]
    assert encode("a cat", tokenizer, names) == [start, *cat, end]


def test_words_that_do_not_fit_are_refused(saved: tuple[str, Path, Pretrained], tmp_path: Path) -> None:
    kind, _, base = saved
    for file, width in (("learned_embeds", 12), ("learned_embeds_2", 8)):
        save_file({"<a>": np.zeros((1, width), np.float32)}, tmp_path / f"{file}.safetensors")
    m = adapters.load(tmp_path, base)
    with pytest.raises(UserError, match="has learned '<a>' already"):
        adapters.load(tmp_path, m)
    save_file({"<b>": np.zeros((1, 5), np.float32)}, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match="vectors of 5, but the text tower's have 12"):
        adapters.load(tmp_path / "wide.safetensors", base)
    if "XL" in kind:
        save_file({"<b>": np.zeros((1, 12), np.float32)}, tmp_path / "alone.safetensors")
        with pytest.raises(UserError, match=r"alone_2\.safetensors is missing: the model has two text towers"):
            adapters.load(tmp_path / "alone.safetensors", base)
    with pytest.raises(UserError, match="has learned no words"):
        jvlm.save(base, tmp_path / "out", format="textual-inversion")


def run_config(directory: Path, adapter: str, *overrides: str) -> Any:
    label = EmojiSource("concepts")[0].label
    said = f"data={{'name': 'emoji', 'split': 'concepts', 'label': {label}, 'prompts': ['a <toy>', 'one <toy>']}}"
    shared = [
        "frozen=()",
        "batch_size=8",
        "task.caption_dropout=0.0",
        "optimizer.weight_decay=0.0",
        f"init={directory}",
    ]
    return load_config(f"{CONFIG}:tiny", [*shared, said, f"adapter={adapter}", *overrides])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    PIPELINES["StableDiffusionPipeline"](folder).save_pretrained(folder / "model")
    return folder / "model"


def test_training_moves_the_rows_of_the_word_alone(small: Path, tmp_path: Path) -> None:
    adapter = "{'kind': 'textual_inversion', 'tokens': ['<toy>'], 'init': 'red apple', 'vectors': 3}"
    train(run_config(small, adapter), str(tmp_path / "run"), quiet=True)
    base, m = jvlm.load(small), jvlm.load(tmp_path / "run")
    before, after = flatten(base.params), flatten(m.params)
    assert m.processor.text is not None and m.processor.text.words == ("<toy>", "<toy>_1", "<toy>_2")
    leaf = after.pop(TABLE)
    np.testing.assert_array_equal(leaf.base, before.pop(TABLE))
    for path, array in after.items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)
    _, red, apple, _ = base.processor.encode("red apple")
    first = np.asarray(leaf.base)[[red, apple, red]]
    assert np.all(np.abs(np.asarray(leaf.rows) - first).max(-1) > 1e-5)
    assert np.abs(np.asarray(leaf.rows) - first).max() < 0.1
    held = json.loads((tmp_path / "run" / "model.json").read_text())["adapter"]
    assert held["base"] == str(small) and held["method"]["kind"] == "textual_inversion"
    jvlm.save(m, tmp_path / "word", format="textual-inversion")
    again = adapters.load(tmp_path / "word", base)
    np.testing.assert_array_equal(told(again, ["a <toy>"]), told(m, ["a <toy>"]))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (dict(), "needs `tokens`, new words"),
        (dict(tokens=["a b"]), "give words without spaces, each once"),
        (dict(tokens=["x"], targets=["conv/kernel"]), "rows of a table"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields: dict[str, Any], named: str) -> None:
    params = {
        "token_embed": {"embedding": np.ones((5, 2), np.float32)},
        "conv": {"kernel": np.ones((2, 2), np.float32)},
    }
    with pytest.raises(ConfigError, match=named):
        attach(params, make_method(dict(kind="textual_inversion") | fields), jax.random.key(0))


def test_saved_preprocessing_is_the_same_with_and_without_words() -> None:
    tokenizer = clip_tokenizer()
    plain = jvlm.data.processor.TextSpec(length=8, pad_id=0)
    assert "words" not in Processor(text=plain, tokenizer=tokenizer).to_dict()["text"]
    learned = jvlm.data.processor.TextSpec(length=8, pad_id=0, words=("<a>", "<b>"))
    one = Processor(text=learned, tokenizer=tokenizer)
    assert Processor.from_dict(one.to_dict()).text == learned
