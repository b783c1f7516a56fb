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


def _instructions(**kwargs: Any):
    from jvlm.data.instructions import InstructionSource

    return InstructionSource(**kwargs)


def _vqa(**kwargs: Any):
    from jvlm.data.vqa_v2 import VqaSource

    return VqaSource(**kwargs)


def _coco_captions(**kwargs: Any):
    from jvlm.data.coco_captions import CocoCaptionSource

    return CocoCaptionSource(**kwargs)


def _interleaved(**kwargs: Any):
    from jvlm.data.interleaved import InterleavedSource

    return InterleavedSource(**kwargs)


def _easy_vqa(**kwargs: Any):
    from jvlm.data.easy_vqa import EasyVqaSource

    return EasyVqaSource(**kwargs)


def _easy_vqa_pictures(**kwargs: Any):
    from jvlm.data.easy_vqa_pictures import EasyVqaPictures

    return EasyVqaPictures(**kwargs)


def _captioned(**kwargs: Any):
    from jvlm.data.as_conversations import CaptionedSource

    return CaptionedSource(**kwargs)


DATASETS: dict[str, Callable[..., Any]] = {
    "tar": _tar,
    "array_record": _array_record,
    "parquet": _parquet,
    "tfds": _tfds,
    "table": _table,
    "folder": _folder,
    "emoji": _emoji,
    "coco_captions": _coco_captions,
    "instructions": _instructions,
    "vqa_v2": _vqa,
    "interleaved": _interleaved,
    "easy_vqa": _easy_vqa,
    "easy_vqa_pictures": _easy_vqa_pictures,
    "captioned": _captioned,
}
