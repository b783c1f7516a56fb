"""CLIP's byte-pair tokenizer, either as transformers' CLIPTokenizer or as open_clip's SimpleTokenizer reads
text.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2021), section 2.4.
Both references share the merges and differ in cleaning, splitting, special tokens and padding."""

import functools
import gzip
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import regex
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from jvlm.core.errors import UserError
from jvlm.data.text_ops import CLEANERS
from jvlm.data.tokenizer_config import added_tokens, read_config, special_names

START, END = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP_SPECIALS = ("<start_of_text>", "<end_of_text>")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Merges = list[tuple[str, str]]


@functools.cache
def byte_letters() -> tuple[str, ...]:
    """The printable character that stands for each byte (GPT-2's table): itself, or the next one from U+0100
    on."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    spare = iter(range(256, 512))
    return tuple(chr(b if b in printable else next(spare)) for b in range(256))


@functools.cache
def bundled_merges() -> bytes:
    """`merges.txt` as published, version line included."""
    return gzip.decompress((resources.files("jvlm.data") / "vocab" / "clip_merges.txt.gz").read_bytes())


def parse_merges(data: bytes) -> Merges:
    """Pairs of a `merges.txt`, best first."""
    lines = data.decode("utf-8").split("\n")
    lines = lines[1:] if lines[0].startswith("#version") else lines
    return [(a, b) for a, _, b in (line.partition(" ") for line in lines if line)]


def build_vocab(merges: Merges, specials: tuple[str, ...]) -> dict[str, int]:
    """Ids as published: letters, letters that end a word, merges in order, special tokens."""
    letters = sorted(byte_letters(), key=lambda c: (ord(c) > 255, ord(c)))  # the table's own order
    words = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), *specials]
    return {word: i for i, word in enumerate(words)}


class ClipTokenizer:
    """CLIP's BPE; without `files`, the published vocabulary.

    `style="transformers"`: NFC, lower case, pads with the end token unless the directory says otherwise.
    `style="open_clip"`: ftfy, HTML entities, white space and lower case (`clean="lower"`), pads with 0.
    """

    kind = "clip_bpe"
    bos_id: int | None
    eos_id: int | None
    pad_id: int
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __init__(self, files: Mapping[str, bytes] | None = None, style: str = "transformers", clean: str | None = None):
        self.style = style
        self.clean = ("lower" if style == "open_clip" else "") if clean is None else clean
        self.options: dict[str, Any] = {"style": style, "clean": self.clean}
        self.files = dict(files or {})
        self._clean = CLEANERS[self.clean]
        if style == "open_clip":
            self._init_open_clip()
        else:
            self._init_transformers()

    def __reduce__(self):
        return type(self), (self.files, self.style, self.clean)

    def _init_open_clip(self) -> None:
        merges = parse_merges(self.files.get("merges.txt") or bundled_merges())
        vocab = build_vocab(merges, OPEN_CLIP_SPECIALS)
        self._bpe = BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", cache_capacity=0)
        self._letters = byte_letters()
        self._words: dict[str, tuple[int, ...]] = {s: (vocab[s],) for s in OPEN_CLIP_SPECIALS}
        self._pattern = regex.compile("|".join(OPEN_CLIP_SPECIALS) + "|" + WORDS, regex.IGNORECASE)
        self.pad_id = 0
        self._finish(len(vocab), *(vocab[s] for s in OPEN_CLIP_SPECIALS))

    def _init_transformers(self) -> None:
        config = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END} | read_config(self.files)
        bos, eos, unk, pad = (special_names(config)[f"{k}_token"] for k in ("bos", "eos", "unk", "pad"))
        vocab, merges, post = self._transformers_model((bos, eos))
        tokenizer = Tokenizer(
            BPE(
                vocab=vocab,
                merges=merges,
                continuing_subword_prefix="",
                end_of_word_suffix="</w>",
                fuse_unk=False,
                unk_token=unk,
            )
        )
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        split = Regex(r"<\|startoftext\|>|<\|endoftext\|>|" + WORDS)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        saved = json.loads(self.files.get("tokenizer.json", b"{}")).get("added_tokens", [])
        for token in added_tokens(config, saved):
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        bos_id, eos_id, self.pad_id = (int(tokenizer.token_to_id(t) or 0) for t in (bos, eos, pad))
        tokenizer.post_processor = post or processors.RobertaProcessing((eos, eos_id), (bos, bos_id), False, False)
        self._tokenizer = tokenizer
        self._finish(tokenizer.get_vocab_size(), bos_id, eos_id)

    def _transformers_model(self, specials: tuple[str, str]) -> tuple[dict[str, int], Merges, Any]:
        if "tokenizer.json" in self.files:
            values = json.loads(self.files["tokenizer.json"])
            model = values["model"]
            pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
            merges = [(first, second) for first, second in pairs]
            frame = values | {"model": model | {"vocab": {}, "merges": []}, "added_tokens": []}
            return model["vocab"], merges, Tokenizer.from_str(json.dumps(frame)).post_processor
        if not self.files:
            merges = parse_merges(bundled_merges())
            return build_vocab(merges, specials), merges, None
        for name in ("vocab.json", "merges.txt"):
            if name not in self.files:
                raise UserError(f"tokenizer file {name!r} is missing: CLIP needs vocab.json and merges.txt")
        return json.loads(self.files["vocab.json"]), parse_merges(self.files["merges.txt"]), None

    def _finish(self, vocab_size: int, bos_id: int, eos_id: int) -> None:
        self.vocab_size = vocab_size
        self.bos_id, self.eos_id = bos_id, eos_id
        self.prefix, self.suffix = (bos_id,), (eos_id,)

    def encode(self, text: str) -> list[int]:
        """Start token, the text's ids, end token."""
        text = self._clean(text)
        if self.style == "transformers":
            return self._tokenizer.encode(text).ids
        ids = list(self.prefix)
        for word in self._pattern.findall(text):
            ids.extend(self._words.get(word) or self._word(word))
        return [*ids, *self.suffix]

    def _word(self, word: str) -> tuple[int, ...]:
        ids = tuple(t.id for t in self._bpe.tokenize("".join(self._letters[b] for b in word.encode("utf-8"))))
        if len(self._words) < 100_000:
            self._words[word] = ids
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        if self.style == "transformers":
            text = self._tokenizer.decode(ids, skip_special_tokens=True)
            return text.replace("</w>", " ").strip()
        pieces = (self._bpe.id_to_token(i) for i in ids if i not in (self.bos_id, self.eos_id))
        letters = {c: b for b, c in enumerate(self._letters)}
        text = "".join(piece.replace("</w>", " ") for piece in pieces if piece)
        return bytes(letters.get(c, 32) for c in text).decode("utf-8", errors="replace").strip()

    def to_files(self) -> dict[str, bytes]:
        """The files it was made from; those of the published vocabulary in the form transformers reads."""
        if self.files:
            return dict(self.files)
        if self.style == "open_clip":
            return {"merges.txt": bundled_merges()}
        vocab = build_vocab(parse_merges(bundled_merges()), (START, END))
        return {
            "vocab.json": json.dumps(vocab, ensure_ascii=False).encode("utf-8"),
            "merges.txt": bundled_merges(),
        }
