"""Datasets made for tests."""

import io
import json
import tarfile
from pathlib import Path

from jvlm.data.clip_bpe import ClipTokenizer
from jvlm.data.processor import ImageSpec, Processor, TextSpec
from jvlm.data.sources import Sample
from tests.data import pictures


def samples(count: int, start: int = 0) -> list[Sample]:
    return [
        Sample(pictures.jpeg(24, 32, seed=i), [f"caption {i}", f"another {i}"], i % 5, f"{i:05d}", {"concept": i % 7})
        for i in range(start, start + count)
    ]


def write_tar(path: Path, made: list[Sample]) -> Path:
    with tarfile.open(path, "w") as tar:
        for sample in made:
            values = {"captions": sample.captions, "label": sample.label, **sample.extra}
            for extension, data in (("jpg", sample.image), ("json", json.dumps(values).encode())):
                member = tarfile.TarInfo(f"{sample.key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def processor(size: int = 16, length: int = 10) -> Processor:
    tokenizer = ClipTokenizer()
    return Processor(ImageSpec.clip(size), TextSpec(length=length, pad_id=tokenizer.pad_id), tokenizer)


class Memory:
    """A source in memory."""

    def __init__(self, made: list[Sample], sample_bytes: int = 1_000_000):
        self.made = made
        self.sample_bytes = sample_bytes

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, index: int) -> Sample:
        return self.made[index]

    def fingerprint(self) -> str:
        return str(len(self))
