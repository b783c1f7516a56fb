"""SentencePiece `.model` files, as transformers' SiglipTokenizer reads them, or plain.

Kudo and Richardson, SentencePiece (2018). `style="siglip"`: lower case, punctuation removed, an underline
before the text, the end token after it. `style="plain"`: the text as it is, with the start and end tokens the
directory asks for. `clean`: see `text_ops.CLEANERS`."""

import re
from collections.abc import Mapping
from typing import Any

import sentencepiece

from jvlm.core.errors import UserError
from jvlm.data.text_ops import CLEANERS, siglip_canonicalize
from jvlm.data.tokenizer_config import read_config, special_names

UNDERLINE = "▁"
MODEL_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.model")


class SentencePieceTokenizer:
    """One of `MODEL_FILES`, with the special tokens of `tokenizer_config.json` where there is one."""

    kind = "sentencepiece"

    def __init__(self, files: Mapping[str, bytes], style: str = "siglip", clean: str = ""):
        self.files = dict(files)
        self.style = style
        self.clean = clean
        self.options: dict[str, Any] = {"style": style, **({"clean": clean} if clean else {})}
        model = next((files[name] for name in MODEL_FILES if name in files), None)
        if model is None:
            raise UserError(f"no SentencePiece model among {sorted(files)}: expected one of {MODEL_FILES}")
        config = read_config(files)
        names = special_names(config)
        self._model = _load(model, dummy_prefix=style == "plain" or config.get("legacy", True))
        self.vocab_size = self._model.get_piece_size()
        self._lower = config.get("do_lower_case", True)
        siglip = style == "siglip"
        self._unk = names.get("unk_token") or self._model.id_to_piece(self._model.unk_id())
        self._added = {token["content"]: int(i) for i, token in config.get("added_tokens_decoder", {}).items()}
        eos = names.get("eos_token") or ("</s>" if siglip else None)
        self.eos_id = self._id(eos) if eos else _some(self._model.eos_id())
        bos = names.get("bos_token")
        self.bos_id = self._id(bos) if bos else (None if siglip else _some(self._model.bos_id()))
        pad = names.get("pad_token") or ("</s>" if siglip else None)
        self.pad_id = self._id(pad) if pad else max(self._model.pad_id(), 0)
        add_bos = config.get("add_bos_token", False) and self.bos_id is not None
        add_eos = siglip or (config.get("add_eos_token", False) and self.eos_id is not None)
        self.prefix = (self.bos_id,) if add_bos and self.bos_id is not None else ()
        self.suffix = (self.eos_id,) if add_eos and self.eos_id is not None else ()
        self._specials = {t for t in (self._unk, eos, bos, pad) if t} | set(self._added)
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self._specials, key=len, reverse=True))) + ")")
        self._unk_length = len(self._model.encode(self._unk))

    def __reduce__(self):
        return type(self), (self.files, self.style, self.clean)

    def _id(self, token: str) -> int:
        return self._added[token] if token in self._added else self._model.piece_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens of the style."""
        text = CLEANERS[self.clean](text)
        if self.style == "plain":
            return [*self.prefix, *self._model.encode(text), *self.suffix]
        parts = [p for p in self._split.split(UNDERLINE + text.replace(UNDERLINE, " ")) if p]
        encoded: list[list[int]] = []
        for i, part in enumerate(parts):
            if part in self._specials:
                encoded.append([self._id(part)])
                continue
            part = part.rstrip() if i + 1 < len(parts) else part  # special tokens take the white space around them
            encoded.append(self._pieces(part.lstrip() if i else part))
        if len(parts) > 1 and encoded[0] == [self._model.piece_to_id(UNDERLINE)]:
            encoded = encoded[1:]  # nothing stands before a special token that begins the text
        ids = [i for part in encoded for i in part]
        return ids if ids and ids[-1] == self.eos_id else [*ids, *self.suffix]

    def _pieces(self, text: str) -> list[int]:
        # Encoded behind the unknown token and cut off again, so that SentencePiece keeps the leading
        # underline.
        ids = self._model.encode(self._unk + siglip_canonicalize(text, self._lower))
        return ids[self._unk_length :] if len(ids) >= self._unk_length else ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        special = {self._id(t) for t in self._specials}
        return self._model.decode([int(i) for i in ids if i not in special])

    def to_files(self) -> dict[str, bytes]:
        """The files it was made from."""
        return dict(self.files)


def _load(model: bytes, dummy_prefix: bool) -> Any:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, OSError) as error:
        raise UserError("the SentencePiece model is broken: fetch the directory again") from error
    if not dummy_prefix:
        from sentencepiece import sentencepiece_model_pb2

        generated: Any = sentencepiece_model_pb2  # its classes are made at import, where pyright sees none
        proto = generated.ModelProto.FromString(model)
        proto.normalizer_spec.add_dummy_prefix = False
        processor.LoadFromSerializedProto(proto.SerializeToString())
    return processor


def _some(token_id: int) -> int | None:
    return token_id if token_id >= 0 else None
