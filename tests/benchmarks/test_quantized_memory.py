"""What the benchmark of memory counts, on a toy."""

from pathlib import Path

import numpy as np

from benchmarks.quantized_memory import LIMIT, TARGETS, embedded, loaded, write_source
from jvlm.train.quantize import Recipe, quantize_directory


def test_a_quantized_directory_takes_less_and_embeds_alike(tmp_path: Path) -> None:
    source, target = tmp_path / "bfloat16", tmp_path / "int4"
    write_source(source, "toy")
    receipt = quantize_directory(source, target, Recipe("int4", 64, False, TARGETS))
    assert receipt["bytes"]["ratio"] < LIMIT
    assert loaded(target) < loaded(source)
    first, second = (embedded(path, 4) for path in (source, target))
    for side, stated in receipt["cosine"].items():
        cosine = (np.array(first[side]) * np.array(second[side])).sum(-1)
        assert stated["lowest"] - 0.02 < cosine.mean() < 1
