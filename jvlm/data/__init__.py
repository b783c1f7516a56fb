"""Sources by name; each is imported when it is made."""

from collections.abc import Callable
from typing import Any


def _tar(**kwargs: Any):
    from jvlm.data.tar import TarSource

    return TarSource(**kwargs)


def _array_record(**kwargs: Any):
    from jvlm.data.array_record import ArrayRecordSource

    return ArrayRecordSource(**kwargs)


def _parquet(**kwargs: Any):
    from jvlm.data.parquet import ParquetSource

    return ParquetSource(**kwargs)


def _tfds(**kwargs: Any):
    from jvlm.data.tfds import TfdsSource

    return TfdsSource(**kwargs)


def _table(**kwargs: Any):
    from jvlm.data.tables import TableSource

    return TableSource(**kwargs)


def _emoji(**kwargs: Any):
    from jvlm.data.emoji.source import EmojiSource

    return EmojiSource(**kwargs)


def _folder(**kwargs: Any):
    from jvlm.data.folder import FolderSource

    return FolderSource(**kwargs)


DATASETS: dict[str, Callable[..., Any]] = {
    "tar": _tar,
    "array_record": _array_record,
    "parquet": _parquet,
    "tfds": _tfds,
    "table": _table,
    "folder": _folder,
    "emoji": _emoji,
}
