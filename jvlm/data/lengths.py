"""How many tokens and tiles every conversation of a source takes: read once, before training, and kept."""

from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int32

from jvlm.core.errors import UserError
from jvlm.data.conversations import Conversation, ConversationSource
from jvlm.data.measured import Table, measure_all
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.sources import Sample


class Lengths(NamedTuple):
    """`tokens`, `answers` (of them to be learnt) and `tiles` [n], 0 for a conversation that cannot be used."""

    tokens: Int32[np.ndarray, "n"]
    answers: Int32[np.ndarray, "n"]
    tiles: Int32[np.ndarray, "n"]

    @classmethod
    def of(cls, table: Table) -> "Lengths":
        """The columns of a table of `measure`."""
        return cls(*(np.ascontiguousarray(column) for column in table.values.T))


def measure(source: ConversationSource, processor: MultimodalProcessor, index: int) -> tuple[int, int, int]:
    """Tokens, answer tokens and tiles of sample `index`, encoded as training would.

    The headers of its pictures are read, not the pictures. BadSample where it cannot be used.
    """
    conversation: Any = source[index]
    if isinstance(conversation, Sample):
        raise UserError("the data holds captioned pictures, not conversations; wrap it in the dataset 'captioned'")
    assert isinstance(conversation, Conversation)
    encoded = processor.encode(conversation)
    return len(encoded.tokens), int(encoded.answer.sum()), encoded.tiles


def measure_lengths(
    source: ConversationSource, processor: MultimodalProcessor, cache: epath.PathLike | None = None
) -> Table:
    """The table of `source`, from the folder `cache` when it was measured before with the same processor."""
    key = source.fingerprint(), processor.fingerprint()
    columns = len(Lengths._fields)
    return measure_all(lambda i: measure(source, processor, i), len(source), columns, "lengths", cache, *key)
