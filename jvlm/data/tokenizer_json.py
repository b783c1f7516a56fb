"""Any `tokenizer.json` through the `tokenizers` package, and BERT's `vocab.txt`.

Where transformers rebuilds part of the pipeline from the tokenizer's class instead of the file, so does this:
Siglip2Tokenizer lower-cases, BertTokenizer normalizes as its configuration says.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from jvlm.core.errors import UserError
from jvlm.data.text_ops import CLEANERS
from jvlm.data.tokenizer_config import added_tokens, read_config, special_names


class JsonTokenizer:
    """`tokenizer.json` (or `vocab.txt`) with the special tokens of `tokenizer_config.json` where there is
    one."""

    kind = "tokenizer_json"

    def __init__(self, files: Mapping[str, bytes], clean: str = ""):
        self.files = dict(files)
        self.clean = clean
        self.options: dict[str, Any] = {"clean": clean}
        self._clean = CLEANERS[clean]
        config = read_config(files)
        tokenizer, tokens = self._build(config, special_names(config))
        known = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
        for token in added_tokens(config):
            if token.content not in known:
                (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids = {key: tokenizer.token_to_id(token) for key, token in tokens.items()}
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        self.bos_id = ids.get("bos_token", ids.get("cls_token"))
        self.eos_id = ids.get("eos_token", ids.get("sep_token"))
        self.pad_id = ids.get("pad_token") or 0
        self.prefix, self.suffix = _frame(tokenizer)

    def __reduce__(self):
        return type(self), (self.files, self.clean)

    def _build(self, config: dict[str, Any], tokens: dict[str, str]) -> tuple[Tokenizer, dict[str, str]]:
        name = config.get("tokenizer_class", "").removesuffix("Fast")
        if "tokenizer.json" not in self.files:
            return _bert(self.files["vocab.txt"], config, tokens)
        try:
            tokenizer = Tokenizer.from_str(self.files["tokenizer.json"].decode("utf-8"))
        except Exception as error:  # the Rust parser raises plain Exception
            raise UserError(f"tokenizer.json is broken ({error}): fetch the directory again") from error
        if name == "Siglip2Tokenizer" and tokenizer.normalizer is not None:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
        if name == "BertTokenizer":
            tokenizer.normalizer = _bert_normalizer(config)
        return tokenizer, tokens

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens of the file's post-processor."""
        return self._tokenizer.encode(self._clean(text)).ids

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids without the post-processor's special tokens, and the characters of `text` that each stands for.

        Special tokens written out in `text` are recognized.
        """
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    def piece(self, id: int | None) -> str | None:
        """The token `id` as it is spelled, or None where there is none."""
        return None if id is None else self._tokenizer.id_to_token(id)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def to_files(self) -> dict[str, bytes]:
        """The files it was made from."""
        return dict(self.files)


def _bert_normalizer(config: Mapping[str, Any]) -> normalizers.BertNormalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )


def _bert(vocab_txt: bytes, config: Mapping[str, Any], tokens: Mapping[str, str]) -> tuple[Tokenizer, dict[str, str]]:
    published = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                 "mask_token": "[MASK]"}  # fmt: skip
    tokens = published | dict(tokens)
    words = vocab_txt.decode("utf-8").split("\n")
    vocab = {word.rstrip("\r"): i for i, word in enumerate(words[:-1] if words[-1] == "" else words)}
    for key in ("cls_token", "sep_token"):
        if tokens[key] not in vocab:
            raise UserError(f"vocab.txt has no {tokens[key]!r}: it is not BERT's")
    tokenizer = Tokenizer(WordPiece(vocab=vocab, unk_token=tokens["unk_token"]))
    tokenizer.normalizer = _bert_normalizer(config)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    cls, sep = tokens["cls_token"], tokens["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    return tokenizer, tokens


def _frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special ids before and after every text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start]), tuple(full[start + len(bare) :])
    return (), ()
