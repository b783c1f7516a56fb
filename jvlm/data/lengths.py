"""How many tokens and tiles every sample of a source takes: read once, before training, and kept."""

import concurrent.futures
import io
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int32

from jvlm.core.errors import UserError
from jvlm.core.files import write_atomic
from jvlm.data.conversations import Conversation, ConversationSource
from jvlm.data.multimodal import MultimodalProcessor
from jvlm.data.sources import BadSample, Sample, digest

SHOWN = 10


class Lengths(NamedTuple):
    """`tokens`, `answers` (of them to be learnt) and `tiles` [n], 0 for a sample that cannot be used; `bad` counts
    those by cause, `first` names the first of each cause."""

    tokens: Int32[np.ndarray, "n"]
    answers: Int32[np.ndarray, "n"]
    tiles: Int32[np.ndarray, "n"]
    bad: dict[str, int]
    first: dict[str, list[str]]


class Measured(NamedTuple):
    """One sample: its counts, or why there are none."""

    tokens: int = 0
    answers: int = 0
    tiles: int = 0
    cause: str = ""
    message: str = ""


def measure(source: ConversationSource, processor: MultimodalProcessor, index: int) -> Measured:
    """Sample `index`, encoded as training would; the headers of its pictures are read, not the pictures."""
    try:
        conversation: Any = source[index]
        if isinstance(conversation, Sample):
            raise UserError("the data holds captioned pictures, not conversations; wrap it in the dataset 'captioned'")
        assert isinstance(conversation, Conversation)
        encoded = processor.encode(conversation)
        return Measured(len(encoded.tokens), int(encoded.answer.sum()), encoded.tiles)
    except BadSample as error:
        return Measured(cause=error.cause, message=_at(index, str(error)))
    except UserError:
        raise
    except Exception as error:  # the same net as in training, under the same names
        cause = "read error" if isinstance(error, OSError) else "unexpected error"
        return Measured(cause=cause, message=_at(index, f"{type(error).__name__}: {error}"))


def measure_all(
    source: ConversationSource, processor: MultimodalProcessor, cache: epath.PathLike | None = None
) -> Lengths:
    """The table of `source`, from the folder `cache` when it was measured before with the same processor."""
    path = None
    if cache is not None:
        key = digest(source.fingerprint(), processor.fingerprint())
        path = epath.Path(cache) / f"lengths-{key[:16]}.npz"
        if path.exists():
            return _load(path.read_bytes())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda i: measure(source, processor, i), range(len(source)), chunksize=64))
    table = tabulate(found)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _dump(table))
    return table


def tabulate(found: Sequence[Measured]) -> Lengths:
    """The samples' counts as a table, in the order given."""
    columns = np.asarray([m[:3] for m in found], np.int32).reshape(len(found), 3).T
    bad: dict[str, int] = {}
    first: dict[str, list[str]] = {}
    for one in found:
        if one.cause:
            bad[one.cause] = bad.get(one.cause, 0) + 1
            if len(shown := first.setdefault(one.cause, [])) < SHOWN:
                shown.append(one.message)
    return Lengths(columns[0].copy(), columns[1].copy(), columns[2].copy(), dict(sorted(bad.items())), first)


def _dump(table: Lengths) -> bytes:
    out = io.BytesIO()
    report = np.asarray(json.dumps([table.bad, table.first]))
    np.savez_compressed(
        out, allow_pickle=False, tokens=table.tokens, answers=table.answers, tiles=table.tiles, report=report
    )
    return out.getvalue()


def _load(data: bytes) -> Lengths:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        bad, first = json.loads(str(found["report"]))
        return Lengths(found["tokens"], found["answers"], found["tiles"], bad, first)


def _at(index: int, message: str) -> str:
    return f"sample {index}: {message}"
