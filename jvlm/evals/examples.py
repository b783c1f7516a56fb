"""What a report shows of a retrieval or of painted pictures, as plain arrays."""

import io
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from jvlm.core.files import absolute, write_atomic
from jvlm.data.image_ops import read_picture
from jvlm.evals.clip_score import Judged, prompt_ranks
from jvlm.evals.retrieval import Embedded
from jvlm.evals.samples import evenly

THUMBNAIL = 48


def retrieval_examples(embedded: Embedded, limit: int = 400) -> dict[str, np.ndarray]:
    """`similarity` [n, m] float32, `thumbnail` [n, 48, 48, 3] uint8, `text` [m], `image_id` [n], `text_id` [m].

    At most `limit` pictures, evenly spaced, and of their texts at most as many.
    """
    pairs, zimg, ztxt = embedded
    rows = evenly(len(zimg), limit)
    columns = np.flatnonzero(np.isin(pairs.text_ids, pairs.image_ids[rows]))
    columns = columns[evenly(len(columns), limit)]
    return dict(
        similarity=(zimg[rows] @ ztxt[columns].T).astype(np.float32),
        thumbnail=np.stack([thumbnail(pairs.samples.pictures[int(row)]) for row in rows]),
        text=np.asarray([pairs.texts[column] for column in columns]),
        image_id=pairs.image_ids[rows].astype(np.int64),
        text_id=pairs.text_ids[columns].astype(np.int64),
    )


def painted_examples(judged: Judged, candidates: int) -> dict[str, np.ndarray]:
    """`sample` [n, H, W, 3] uint8, `prompt` [n], the judge's cosine `score` [n] and the prompt's `rank` [n], from 1."""
    similarity = judged.zimg.astype(np.float64) @ judged.ztxt.T.astype(np.float64)
    return dict(
        sample=judged.pictures,
        prompt=np.asarray(judged.prompts),
        score=similarity.diagonal().astype(np.float32),
        rank=prompt_ranks(similarity, candidates)[0] + 1,
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
