"""The side-by-side measurements run, on toy models: both sides train, all sides embed the same."""

import math
from typing import Any

import pytest

from benchmarks import embedding, pairs, train_step

RATES = {"jvlm_s", "torch_s", "ratio", "lowest", "highest"}


def assert_measured(part: dict[str, Any]) -> None:
    for kind in ("wall", "cpu"):
        assert part[kind].keys() >= RATES
        assert part[kind]["lowest"] <= part[kind]["ratio"] <= part[kind]["highest"]


def test_pairs_alternate_and_swap_their_order() -> None:
    calls: list[str] = []
    report = pairs.alternate(lambda: calls.append("jvlm"), lambda: calls.append("torch"), 3)
    assert calls == ["jvlm", "torch", "jvlm", "torch", "torch", "jvlm", "jvlm", "torch"]
    assert_measured(report)


def test_rates_divide_the_samples_by_the_seconds() -> None:
    part = dict(jvlm_s=2.0, torch_s=4.0, ratio=2.0, lowest=1.5, highest=2.5)
    rated = pairs.rates({"wall": part}, 10)
    assert (rated["wall"]["jvlm_per_s"], rated["wall"]["torch_per_s"]) == (5.0, 2.5)


def test_both_sides_of_the_training_step_learn_the_batch() -> None:
    report = train_step.measure("toy", 8, repeats=8, cores=1, parts=True)
    for part in ("forward", "gradients", "step"):
        assert_measured(report[part])
    for first, last in zip(report["first_loss"], report["last_loss"], strict=True):
        assert math.isfinite(first)
        assert last < first - 0.05


def test_all_sides_embed_alike() -> None:
    report = embedding.measure("toy", pictures=6, batch=4, repeats=1, cores=1, parts=True)
    works = {"image", "text_padded", "image_tower"}
    for rival, own in (("transformers", {"text_cut", "text_tower"}), ("open_clip", set())):
        assert report[rival].keys() == works | own
        for work in report[rival]:
            assert_measured(report[rival][work])
            assert report[rival][work]["largest_difference"] < 1e-4, (rival, work)


@pytest.mark.parametrize("name", ["demo", "small", "toy", "ViT-B/32"])
def test_a_batch_ends_every_text_with_the_end_token(name: str) -> None:
    fields = train_step.fields_of(name)
    tokens = train_step.make_batch(fields, 4)["tokens"]
    assert tokens.shape == (4, fields["text"]["length"])
    assert ((tokens == fields["text"]["vocab_size"] - 1).sum(axis=1) == 1).all()
    assert tokens.max() == fields["text"]["vocab_size"] - 1
