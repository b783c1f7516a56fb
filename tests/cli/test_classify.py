"""`jvlm classify` gives transformers' zero-shot probabilities."""

import numpy as np
import pytest

from tests.cli.directories import run_error, run_json
from tests.cli.test_embed import reference

CLASSES = ["cat", "dog", "fire truck"]


def test_probabilities_equal_transformers_with_one_template(clip: str, pictures: list[str], capsys) -> None:
    argv = ("--model", clip, "--images", *pictures, "--classes", *CLASSES, "--templates", "an image of {}")
    said = run_json(capsys, "classify", *argv)
    logits = reference(clip, pictures, [f"an image of {name}" for name in CLASSES])["logits"]
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    assert [row["path"] for row in said["images"]] == pictures
    for row, probability in zip(said["images"], expected):
        found = {item["class"]: item["probability"] for item in row["classes"]}
        assert found == pytest.approx(dict(zip(CLASSES, probability.tolist())), abs=1e-4)
        shown = [item["probability"] for item in row["classes"]]
        assert shown == sorted(shown, reverse=True)


def test_several_templates_are_averaged_on_the_sphere(clip: str, pictures: list[str], capsys) -> None:
    both = ("a {}", "no {} at all")
    argv = ("--model", clip, "--images", pictures[0], "--classes", *CLASSES, "--templates", *both, "--top", "1")
    (item,) = run_json(capsys, "classify", *argv)["images"][0]["classes"]
    ref = reference(clip, pictures[:1], [template.replace("{}", item["class"]) for template in both])
    mean = ref["text"].mean(0)
    assert item["similarity"] == pytest.approx(float(ref["image"][0] @ mean / np.linalg.norm(mean)), abs=1e-5)


def test_wrong_input_is_one_line_that_names_it(clip: str, pictures: list[str], capsys) -> None:
    base = ("--model", clip, "--images", pictures[0])
    cases = [
        (2, "names 'cat' twice", (*base, "--classes", "cat", "cat")),
        (2, "'openai_7'", (*base, "--classes", "cat", "--templates", "openai7")),
        (2, "has no {}", (*base, "--classes", "cat", "--templates", "a {}", "b")),
        (2, "--top: 0 does not do", (*base, "--classes", "cat", "--top", "0")),
        (1, "no such picture", ("--model", clip, "--images", "none.png", "--classes", "cat")),
    ]
    for status, text, argv in cases:
        found, said = run_error(capsys, "classify", *argv)
        assert found == status, said
        assert text in said
