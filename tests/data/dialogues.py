"""Conversations, a tokenizer of bytes and a processor made for tests."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from jvlm.data.chat import ChatTemplate, assistant_message, user_message
from jvlm.data.conversations import Conversation
from jvlm.data.image_spec import ImageSpec
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.pictures import FixedPictures
from jvlm.data.tokenizer_json import JsonTokenizer
from tests.data import pictures
from tests.data.templates import BOTH, SPECIAL

SPECIALS = ["<s>", "<|im_end|>", "<image>"]


def tokenizer_files() -> dict[str, bytes]:
    """A `tokenizer.json` whose tokens are bytes, with the special tokens of `SPECIALS` behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    config = {**SPECIAL, "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": BOTH}
    return {"tokenizer.json": made.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}


def processor(template: str = BOTH, tokens: int = 4, length: int = 64, **fields: Any) -> MultimodalProcessor:
    """Each picture is one tile of 8 x 8 and `tokens` tokens."""
    tokenizer = JsonTokenizer(tokenizer_files())
    layout = FixedPictures(ImageSpec.siglip(8), tokens)
    special: dict[str, Any] = dict(image_id=258, end_id=257, pictures=layout, length=length) | fields
    return MultimodalProcessor(tokenizer=tokenizer, template=ChatTemplate(template, SPECIAL), **special)


def conversation(question: str, answer: str, images: int = 1, key: str = "", **extra: Any) -> Conversation:
    shown = [pictures.encode(pictures.photo(8, 8, seed=len(question) + i)) for i in range(images)]
    return Conversation([user_message(question, images), assistant_message(answer)], list(shown), key, extra)


class Talks:
    """A source of conversations in memory."""

    def __init__(self, made: list[Conversation], sample_bytes: int = 1000):
        self.made, self.sample_bytes = made, sample_bytes

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> Conversation:
        return self.made[index]

    def fingerprint(self) -> str:
        return str([(c.messages, c.key) for c in self.made])


def write_json(path: Path, value: Any) -> str:
    path.write_text("\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value))
    return str(path)
