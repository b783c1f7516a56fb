"""Looking through a dataset before a run: what is in it, and what of it could not be used."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from jvlm.data import image_ops
from jvlm.data.sources import BadSample, Sample, Source
from jvlm.data.tokenizers import Tokenizer


@dataclasses.dataclass
class Finding:
    """One sample: `cause` is empty when it is good."""

    cause: str = ""
    message: str = ""
    size: int = 0
    height: int = 0
    width: int = 0
    captions: int = 0
    tokens: list[int] = dataclasses.field(default_factory=list)
    labelled: bool = False


def examine(source: Source, index: int, tokenizer: Tokenizer) -> Finding:
    """Reads sample `index` as training would, the picture decoded in full."""
    found = Finding()
    try:
        sample = source[index]
        captions = [c for c in sample.captions if c.strip()]
        found.size, found.captions, found.labelled = len(sample.image), len(captions), sample.label is not None
        found.tokens = [len(tokenizer.encode(c)) for c in captions]
        if not captions:
            raise BadSample(f"{sample.key or index}: no caption", "empty caption")
        picture = decoded(sample, index)
        found.height, found.width = picture.height, picture.width
    except BadSample as error:
        found.cause, found.message = error.cause, str(error)
    except Exception as error:  # the same net as in training, under the same names
        found.cause = "read error" if isinstance(error, OSError) else "unexpected error"
        found.message = f"sample {index}: {type(error).__name__}: {error}"
    return found


def decoded(sample: Sample, index: int) -> Image.Image:
    """The picture of a sample, decoded in full as training would; BadSample where it cannot be."""
    try:
        return image_ops.read_picture(sample.image)
    except image_ops.BadPicture as error:
        raise BadSample(f"{sample.key or index}: {error}", error.cause) from error


def check(source: Source, tokenizer: Tokenizer, length: int, shown: int = 10) -> dict[str, Any]:
    """Counts, sizes, bad samples per cause with the first `shown`, caption lengths, captions longer than `length`."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = list(pool.map(lambda i: examine(source, i, tokenizer), range(len(source)), chunksize=16))
    bad = [f for f in findings if f.cause]
    causes: dict[str, int] = {}
    for one in bad:
        causes[one.cause] = causes.get(one.cause, 0) + 1
    good = [f for f in findings if not f.cause]
    tokens = [n for f in good for n in f.tokens]
    return {
        "samples": len(findings),
        "good": len(good),
        "bad": dict(sorted(causes.items())),
        "first_bad": [f.message for f in bad[:shown]],
        "bytes": sum(f.size for f in findings),
        "height": spread(f.height for f in good),
        "width": spread(f.width for f in good),
        "captions": {"total": len(tokens), "per_sample": spread(f.captions for f in good)},
        "tokens": spread(tokens) | {"limit": length, "truncated": sum(n > length for n in tokens)},
        "labelled": sum(f.labelled for f in good),
        "fingerprint": source.fingerprint(),
    }


def spread(values: Iterable[int]) -> dict[str, float]:
    """Smallest, median and largest."""
    array = np.fromiter(values, np.int64)
    if not len(array):
        return {"min": 0.0, "median": 0.0, "max": 0.0}
    return {"min": float(array.min()), "median": float(np.median(array)), "max": float(array.max())}
