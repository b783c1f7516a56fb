"""A source of captioned pictures as conversations: the picture is shown, its caption is the answer."""

import zlib
from collections.abc import Mapping
from typing import Any

from jvlm.core import build
from jvlm.data import DATASETS
from jvlm.data.chat import assistant_message, user_message
from jvlm.data.conversations import Conversation
from jvlm.data.sources import BadSample, Source, digest


class CaptionedSource:
    """`source` (or its fields, `name` among them) asked `prompt`, answered by a caption of each picture.

    Which of several captions is a function of the sample alone, so that its length is known before training.
    """

    def __init__(self, source: Source | Mapping[str, Any], prompt: str = ""):
        self.source: Source = _made(source) if isinstance(source, Mapping) else source
        self.prompt = prompt
        self.sample_bytes = self.source.sample_bytes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Conversation:
        sample = self.source[index]
        captions = [c for c in sample.captions if c.strip()]
        if not captions:
            raise BadSample(f"{sample.key or index}: no caption", "empty answer")
        caption = captions[zlib.crc32(str(index).encode()) % len(captions)]
        messages = [user_message(self.prompt, pictures=1), assistant_message(caption)]
        return Conversation(messages, [sample.image], sample.key, {"answers": captions})

    def fingerprint(self) -> str:
        """Changes with the source and the prompt."""
        return digest("captioned", self.source.fingerprint(), self.prompt)


def _made(fields: Mapping[str, Any]) -> Source:
    fields = dict(fields)
    name = fields.pop("name", "?")
    return build.call(build.lookup(DATASETS, name, "dataset"), fields, f"dataset {name!r}")
