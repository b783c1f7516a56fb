"""The tokenizer inside a GGUF file, as the files that transformers would have beside the weights."""

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from jvlm.core.build import lookup
from jvlm.core.errors import UserError, nearest
from jvlm.interop.gguf_file import GgufFile

_CONTROL, _USER = 3, 4
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How text is cut before pairs are merged, by `tokenizer.ggml.pre`; None is GPT-2's own pattern.
_SPLITS: dict[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "llama-v3": _WORDS + r"\p{N}{1,3}" + _REST,
    "llama3": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _WORDS + r"\p{N}" + _REST,
    "deepseek-r1-qwen": _WORDS + r"\p{N}" + _REST,
}
_SPACE = "▁"


def tokenizer_files(file: GgufFile) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json`, chat template included.

    UserError for a kind other than `gpt2` (byte-level pairs) and `llama` (SentencePiece pairs).
    """
    kind = file.need("tokenizer.ggml.model")
    pieces = file.need("tokenizer.ggml.tokens")
    build = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in build:
        raise UserError(f"{file.path}: a tokenizer of the kind {kind!r}; {nearest(str(kind), build)}")
    named = {
        f"{name}_token": pieces[at]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if (at := file.get(f"tokenizer.ggml.{key}_token_id")) is not None
    }
    tokenizer = build[kind](file, pieces, named)
    _add(tokenizer, file, pieces, byte_level=kind == "gpt2")
    bos = bool(file.get("tokenizer.ggml.add_bos_token", kind == "llama"))
    eos = bool(file.get("tokenizer.ggml.add_eos_token", False))
    _frame(tokenizer, named.get("bos_token") if bos else None, named.get("eos_token") if eos else None)
    config: dict[str, Any] = dict(
        tokenizer_class="PreTrainedTokenizerFast",
        clean_up_tokenization_spaces=False,
        model_max_length=file.get(f"{file.need('general.architecture')}.context_length"),
        **named,
    )
    if (template := file.get("tokenizer.chat_template")) is not None:
        config["chat_template"] = template
    return {
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }


def _byte_level(file: GgufFile, pieces: list[str], named: dict[str, str]) -> Tokenizer:
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges: Any = [tuple(merge.split(" ")) for merge in file.need("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, fuse_unk=False))
    split = lookup(_SPLITS, file.get("tokenizer.ggml.pre", "default"), f"{file.path}: the pre-tokenizer")
    if split is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GgufFile, pieces: list[str], named: dict[str, str]) -> Tokenizer:
    gemma = str(file.need("general.architecture")).startswith("gemma")
    if gemma:
        # Runs of spaces are stored as such, but looked up after spaces have become the mark; and the order of the
        # vocabulary is that of the merges, which the scores are not.
        pieces = [_SPACE * len(piece) if piece and not piece.strip(" ") else piece for piece in pieces]
        scores = [-float(index) for index in range(len(pieces))]
    else:
        scores = file.need("tokenizer.ggml.scores")
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges: Any = _merges(vocab, dict(zip(pieces, scores, strict=True)))
    unknown: dict[str, Any] = dict(unk_token=named["unk_token"]) if gemma and "unk_token" in named else {}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, fuse_unk=True, byte_fallback=True, **unknown))
    last: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if gemma:
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    else:
        prepend = file.get("tokenizer.ggml.add_space_prefix", True)
        scheme: Any = "first" if prepend else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False)
        last += [decoders.Strip(" ", left=1)] if prepend else []
    tokenizer.decoder = decoders.Sequence(last)
    return tokenizer


def _merges(vocab: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """The pairs that make a piece, the best piece first: what a SentencePiece vocabulary says without listing it."""
    found = []
    for piece, score in scores.items():
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        pairs = sorted(
            (pair for pair in cuts if pair[0] in vocab and pair[1] in vocab), key=lambda p: (vocab[p[0]], vocab[p[1]])
        )
        found += [(score, len(pair[0]), len(pair[1]), pair) for pair in pairs]
    return [pair for *_, pair in sorted(found, key=lambda x: x[:3], reverse=True)]


def _add(tokenizer: Tokenizer, file: GgufFile, pieces: list[str], byte_level: bool) -> None:
    """Control tokens and those that the user defined, which text is searched for before anything else."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    kinds = file.get("tokenizer.ggml.token_type") or [1] * len(pieces)
    for wanted, add in ((_CONTROL, tokenizer.add_special_tokens), (_USER, tokenizer.add_tokens)):
        # A byte-level vocabulary spells every real token in its alphabet: another one was marked by mistake.
        tokens = [
            AddedToken(piece, normalized=False, special=wanted == _CONTROL)
            for piece, kind in zip(pieces, kinds, strict=True)
            if kind == wanted and (wanted == _USER or not byte_level or set(piece) <= alphabet)
        ]
        if tokens:
            add(tokens)


def _frame(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> None:
    around = [token for token in (bos, eos) if token is not None]
    if around:
        text = " ".join([*([f"{bos}:0"] if bos else []), "$A:0", *([f"{eos}:0"] if eos else [])])
        ids: Any = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(around)]
        tokenizer.post_processor = processors.TemplateProcessing(single=text, special_tokens=ids)
