"""Token ids equal the reference tokenizers', padding and truncation included."""

import json
import pickle
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jvlm.core.errors import UserError
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import clip_tokenizer, tokenizer_from_dict, tokenizer_from_files, tokenizer_to_dict
from tests import reference as _reference  # makes transformers and open_clip importable
from tests.data.captions import NASTY

assert _reference


def read_folder(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def rows(tokenizer, length: int) -> np.ndarray:
    return Processor(text=TextSpec(length=length, pad_id=tokenizer.pad_id), tokenizer=tokenizer).texts(NASTY)


def reference_rows(reference, length: int) -> np.ndarray:
    return reference(NASTY, padding="max_length", max_length=length, truncation=True, return_tensors="np").input_ids


@pytest.fixture(scope="module")
def corpus_model(tmp_path_factory) -> bytes:
    """A small SentencePiece model with T5's special tokens, as SigLIP's has."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("spm")
    text = [f"a photo of the {c}at and a {d}og" for c in string.ascii_lowercase for d in string.ascii_lowercase]
    (folder / "text.txt").write_text("\n".join(text))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "m"), vocab_size=50, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return (folder / "m.model").read_bytes()


@pytest.mark.parametrize("length", [77, 16])
def test_clip_equals_transformers_from_vocabulary_and_from_saved_directory(tmp_path, length):
    from transformers import CLIPTokenizer

    ours = clip_tokenizer()
    reference = CLIPTokenizer.from_pretrained(write_folder(tmp_path / "files", ours.to_files()))
    np.testing.assert_array_equal(rows(ours, length), reference_rows(reference, length))
    reference.save_pretrained(tmp_path / "saved")
    saved = tokenizer_from_files(read_folder(tmp_path / "saved"))
    np.testing.assert_array_equal(rows(saved, length), reference_rows(reference, length))
    assert [ours.decode(ours.encode(t)) for t in NASTY] == [
        reference.decode(reference(t).input_ids, skip_special_tokens=True) for t in NASTY
    ]


def test_clip_takes_padding_and_added_tokens_from_the_directory(tmp_path):
    from transformers import CLIPTokenizer

    files = clip_tokenizer().to_files()
    reference = CLIPTokenizer.from_pretrained(write_folder(tmp_path / "files", files), pad_token="!")
    reference.add_tokens(["<tile>"], special_tokens=True)
    reference.save_pretrained(tmp_path / "saved")
    ours = tokenizer_from_files(read_folder(tmp_path / "saved"))
    assert ours.pad_id == reference.pad_token_id == 0
    assert ours.encode("a <tile> b") == reference("a <tile> b").input_ids
    assert 49408 in ours.encode("a <tile> b")
    np.testing.assert_array_equal(rows(ours, 20), reference_rows(reference, 20))


@pytest.mark.parametrize("length", [77, 16])
def test_clip_equals_open_clip(length):
    import open_clip

    reference = open_clip.tokenizer.SimpleTokenizer()
    np.testing.assert_array_equal(rows(clip_tokenizer("open_clip"), length), reference(NASTY, length).numpy())


def test_the_two_clip_styles_differ_where_cleaning_matters():
    a, b = clip_tokenizer(), clip_tokenizer("open_clip")
    assert a.encode("a photo of a cat") == b.encode("a photo of a cat")
    assert a.encode("rock &amp; roll") != b.encode("rock &amp; roll")


@pytest.mark.filterwarnings("ignore:This sequence already has")
@pytest.mark.parametrize("source", ["trained", "mistral"])
@pytest.mark.parametrize("length", [64, 9])
def test_siglip_equals_transformers(tmp_path, corpus_model, source, length):
    import mistral_common
    from transformers import SiglipTokenizer

    if source == "mistral":
        corpus_model = (Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1").read_bytes()
    (tmp_path / "spiece.model").write_bytes(corpus_model)
    reference = SiglipTokenizer(str(tmp_path / "spiece.model"))
    ours = tokenizer_from_files(read_folder(tmp_path))
    np.testing.assert_array_equal(rows(ours, length), reference_rows(reference, length))
    special = ["</s> first", "in </s> the middle", "at the end </s>", "<unk> x", "cat <unk></s>"]
    assert [ours.encode(t) for t in special] == [reference(t).input_ids for t in special]
    reference.save_pretrained(tmp_path / "saved")
    saved = tokenizer_from_files(read_folder(tmp_path / "saved"))
    assert [saved.encode(t) for t in NASTY + special] == [reference(t).input_ids for t in NASTY + special]


def byte_level_json() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = pre_tokenizers.ByteLevel.alphabet()
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *sorted(letters), "at", "th"]
    vocab = {w: i for i, w in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "t"), ("t", "h")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return tokenizer.to_str().encode()


@pytest.mark.parametrize("extra", [{}, {"add_bos_token": True, "add_eos_token": False}])
def test_tokenizer_json_equals_transformers(tmp_path, extra):
    from transformers import PreTrainedTokenizerFast

    (tmp_path / "tokenizer.json").write_bytes(byte_level_json())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>",
              "bos_token": "<bos>", "unk_token": "<unk>"} | extra  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = tokenizer_from_files(read_folder(tmp_path))
    assert (ours.prefix, ours.suffix) == ((2,), (1,))
    np.testing.assert_array_equal(rows(ours, 12), reference_rows(reference, 12))


def test_siglip2_lower_cases_as_transformers_whatever_the_file_says(tmp_path):
    from transformers import Siglip2Tokenizer

    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *bytes_, "▁", *"abcdefoht", "th"]
    merges: Any = [("t", "h")]
    Siglip2Tokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges, add_eos_token=True).save_pretrained(
        tmp_path
    )
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    reference = Siglip2Tokenizer.from_pretrained(tmp_path)
    ours = tokenizer_from_files(read_folder(tmp_path))
    assert [ours.encode(t) for t in NASTY] == [reference(t).input_ids for t in NASTY]
    assert ours.encode("THE CAT") == ours.encode("the cat")


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_bert_equals_transformers(tmp_path, lower, form):
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "ca", "##fe", "A", "!", "日"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": lower})
    )
    reference = BertTokenizer.from_pretrained(tmp_path)
    if form == "tokenizer.json":
        reference.save_pretrained(tmp_path / "saved")
        ours = tokenizer_from_files(read_folder(tmp_path / "saved"))
    else:
        ours = tokenizer_from_files(read_folder(tmp_path))
    np.testing.assert_array_equal(rows(ours, 16), reference_rows(reference, 16))


@pytest.mark.parametrize("clean", ["whitespace", "lower", "canonicalize"])
def test_open_clip_cleans_before_a_tokenizer_json(tmp_path, clean):
    import open_clip

    (tmp_path / "tokenizer.json").write_bytes(byte_level_json())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    reference = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=24, clean=clean)
    ours = tokenizer_from_files(read_folder(tmp_path), style="open_clip", clean=clean)
    np.testing.assert_array_equal(rows(ours, 24), reference(NASTY).numpy())


def test_a_tokenizer_survives_pickling_and_its_dict(corpus_model):
    for tokenizer in (
        clip_tokenizer(),
        clip_tokenizer("open_clip"),
        tokenizer_from_files({"spiece.model": corpus_model}),
        tokenizer_from_files({"tokenizer.json": byte_level_json()}),
    ):
        again = pickle.loads(pickle.dumps(tokenizer))
        made = tokenizer_from_dict(tokenizer_to_dict(tokenizer), tokenizer.to_files())
        for text in NASTY[2:6]:
            assert tokenizer.encode(text) == again.encode(text) == made.encode(text)


def test_a_changed_or_missing_tokenizer_file_is_refused(corpus_model):
    values = tokenizer_to_dict(tokenizer_from_files({"spiece.model": corpus_model}))
    with pytest.raises(UserError, match=r"spiece\.model.*missing"):
        tokenizer_from_dict(values, {})
    with pytest.raises(UserError, match="not the one"):
        tokenizer_from_dict(values | {"files": {"spiece.model": "0" * 64}}, {"spiece.model": corpus_model})
    with pytest.raises(UserError, match="did you mean 'sentencepiece'"):
        tokenizer_from_dict(values | {"kind": "sentencepeace"}, {})


def test_files_that_make_no_tokenizer_are_named():
    with pytest.raises(UserError, match=r"no tokenizer among \['config.json'\]"):
        tokenizer_from_files({"config.json": b"{}"})
    with pytest.raises(UserError, match=r"merges\.txt.*missing"):
        tokenizer_from_files({"vocab.json": b"{}"})
    with pytest.raises(UserError, match="broken"):
        tokenizer_from_files({"tokenizer.json": b"{"})
    with pytest.raises(UserError, match="broken"):
        tokenizer_from_files({"spiece.model": b"nothing"})
