"""A tiny CLIP with random weights, the published tokenizer, and pictures to embed."""

import io
from functools import cache
from typing import Any

import jax
import numpy as np
from PIL import Image

from jvlm.core.sharding import make_mesh
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.sources import Sample
from jvlm.data.tokenizers import clip_tokenizer
from jvlm.evals.encoder import Encoder
from tests.models_util import initialize, tiny

LENGTH = 24


@cache
def clip() -> tuple[Any, dict[str, Any], Processor]:
    """(model, variables, processor)."""
    model, variables, _ = initialize(tiny("clip", text=dict(vocab_size=49408, length=LENGTH, eos_id=49407)))
    tokenizer = clip_tokenizer()
    processor = Processor(ImageSpec.clip(16), TextSpec(length=LENGTH, pad_id=tokenizer.pad_id), tokenizer)
    return model, variables, processor


@cache
def encoder(devices: int = 1, batch_size: int = 8, **options: Any) -> Encoder:
    model, variables, processor = clip()
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    return Encoder.for_model(model, variables, processor, mesh=mesh, batch_size=batch_size, **options)


def pictures(count: int, seed: int = 0, size: int = 20) -> list[bytes]:
    """PNG files of smooth random colours."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((size, size + 4), Image.Resampling.BICUBIC).save(buffer, "PNG")
        out.append(buffer.getvalue())
    return out


class Memory:
    """A source of samples in memory."""

    sample_bytes = 100

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def fingerprint(self) -> str:
        return "memory"


def memory(count: int, labels: int = 4, captions: int = 1) -> Memory:
    """`count` samples, labels in turn, with distinct captions."""
    return Memory(
        [
            Sample(data, [f"a number {i} of kind {i % labels}, {c}" for c in range(captions)], i % labels, f"k{i}")
            for i, data in enumerate(pictures(count))
        ]
    )
