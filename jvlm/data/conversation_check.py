"""Looking through conversations before a run: what they hold, what of it could not be used, how full rows would be."""

import concurrent.futures
import os
import threading
from collections.abc import Hashable
from typing import Any

import numpy as np

from jvlm.data import image_ops
from jvlm.data.check import spread
from jvlm.data.conversations import Conversation, ConversationSource
from jvlm.data.lengths import Lengths, measure
from jvlm.data.measured import Measured, measured, tabulate
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.packing import fill_rows
from jvlm.data.sources import BadSample


def check_conversations(source: ConversationSource, processor: MultimodalProcessor) -> dict[str, Any]:
    """Counts, and the bad samples by cause with the first of each, every picture decoded once.

    Causes include `image tokens cut`, `answer cut`, `empty answer`, `missing picture` and `pictures without a place`;
    `cut` counts the samples whose answer loses its end. `utilisation` is that of rows of `processor.length` tokens.
    """
    pictures = _Pictures()

    def one(index: int) -> tuple[Measured, int, str]:
        found = measured(lambda i: measure(source, processor, i), index)
        if found.cause:
            return found, 0, ""
        conversation = source[index]
        try:
            pictures.read(conversation)
        except BadSample as error:
            message = f"sample {index}: {error}"
            return Measured(cause=error.cause, message=message), 0, ""
        return found, len(conversation.images), str(conversation.extra.get("question_type", ""))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(one, range(len(source)), chunksize=16))
    table = tabulate([one for one, _, _ in found], len(Lengths._fields))
    lengths = Lengths.of(table)
    good = lengths.tokens > 0
    rows = fill_rows(lengths.tokens, lengths.tiles, processor.length, processor.max_tiles)
    types: dict[str, int] = {}
    for kind in (kind for one, _, kind in found if kind and not one.cause):
        types[kind] = types.get(kind, 0) + 1
    return {
        "samples": len(found),
        "good": int(good.sum()),
        "bad": table.bad,
        "first_bad": table.first,
        "pictures": spread(n for one, n, _ in found if not one.cause),
        "distinct_pictures": len(pictures),
        "tokens": spread(lengths.tokens[good].tolist()) | {"limit": processor.length},
        "answer_tokens": spread(lengths.answers[good].tolist()),
        "cut": int((lengths.tokens == processor.length).sum()),
        "types": dict(sorted(types.items())),
        "rows": len(rows),
        "utilisation": float(np.sum(lengths.tokens)) / max(1, len(rows) * processor.length),
        "fingerprint": source.fingerprint(),
    }


class _Pictures:
    """Pictures read so far; several questions are often about one."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, BadSample | None] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def read(self, conversation: Conversation) -> None:
        """Decodes the pictures; BadSample for the first that is broken."""
        for picture in conversation.images:
            name: Hashable = picture if isinstance(picture, bytes) else str(picture)
            if name not in self._seen:
                found = _broken(picture, conversation.key)
                with self._lock:
                    self._seen[name] = found
            if (broken := self._seen[name]) is not None:
                raise BadSample(str(broken), broken.cause)


def _broken(picture: image_ops.Picture, key: str) -> BadSample | None:
    try:
        image_ops.read_picture(picture)
    except image_ops.BadPicture as error:
        return BadSample(f"{key}: {error}", error.cause)
    return None
