"""What a report shows of a retrieval: small pictures, texts and their similarities, as plain arrays."""

import io
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jvlm.core.files import absolute, write_atomic
from jvlm.data.image_ops import read_picture
from jvlm.evals.retrieval import Embedded

THUMBNAIL = 48


def retrieval_examples(embedded: Embedded, limit: int = 400) -> dict[str, np.ndarray]:
    """`similarity` [n, m] float32, `thumbnail` [n, 48, 48, 3] uint8, `text` [m], `image_id` [n], `text_id` [m].

    At most `limit` pictures, evenly spaced, and of their texts at most as many.
    """
    pairs, zimg, ztxt = embedded
    rows = _evenly(len(zimg), limit)
    columns = np.flatnonzero(np.isin(pairs.text_ids, pairs.image_ids[rows]))
    columns = columns[_evenly(len(columns), limit)]
    return dict(
        similarity=(zimg[rows] @ ztxt[columns].T).astype(np.float32),
        thumbnail=np.stack([thumbnail(pairs.samples.pictures[int(row)]) for row in rows]),
        text=np.asarray([pairs.texts[column] for column in columns]),
        image_id=pairs.image_ids[rows].astype(np.int64),
        text_id=pairs.text_ids[columns].astype(np.int64),
    )


def thumbnail(picture: Any) -> np.ndarray:
    """The middle of a picture as uint8 [48, 48, 3]."""
    image = read_picture(picture)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))


def save_examples(folder: epath.PathLike, suite: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes `folder/<suite>.npz`, where `train.report` looks for it."""
    folder = absolute(folder)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomic(folder / f"{suite}.npz", buffer.getvalue())


def _evenly(count: int, limit: int) -> np.ndarray:
    return np.arange(count) if count <= limit else np.linspace(0, count - 1, limit).round().astype(int)
