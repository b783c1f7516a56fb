"""Zero-shot classes are means on the sphere, and scores equal an argsort."""

import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals import EVALUATORS
from jvlm.evals.class_folder import ClassFolder
from jvlm.evals.zero_shot import TEMPLATES, ZeroShot, class_embeddings, templates_of
from tests.evals import tiny

CLASSES = ["cat", "red car", "tree", "sea"]


def test_class_embeddings_are_normalized_means_of_unit_texts() -> None:
    encoder = tiny.encoder()
    found = class_embeddings(encoder, CLASSES, "openai_7")
    for z, name in zip(found, CLASSES):
        mean = encoder.texts([template.format(name) for template in TEMPLATES["openai_7"]]).mean(0)
        np.testing.assert_allclose(z, mean / np.linalg.norm(mean), atol=1e-6)


def test_scores_equal_an_argsort_and_do_not_depend_on_the_mesh() -> None:
    data = tiny.memory(22, labels=4)
    task = ZeroShot(data, CLASSES, "simple")
    scores = task(tiny.encoder(1, 8))
    encoder = tiny.encoder(1, 8)
    logits = encoder.images([s.image for s in data.samples]) @ class_embeddings(encoder, CLASSES, "simple").T
    labels = np.asarray([s.label for s in data.samples])
    assert scores["accuracy_top1"].value == (logits.argmax(1) == labels).mean()
    per_class = [(logits.argmax(1) == labels)[labels == c].mean() for c in range(4)]
    assert scores["accuracy_per_class"].value == pytest.approx(np.mean(per_class))
    assert scores["accuracy_top1"].chance == 0.25
    assert task(tiny.encoder(8, 16)) == scores


def test_classes_come_from_the_data_where_none_are_given() -> None:
    data = tiny.memory(6, labels=3)
    data.samples = [s._replace(label=10 * (s.label or 0), captions=[f"kind {s.label}"]) for s in data.samples]
    assert ZeroShot(data)(tiny.encoder())["accuracy_top1"].chance == pytest.approx(1 / 3)


def test_folders_are_classes_in_sorted_order(tmp_path) -> None:
    for at, name in enumerate(["dog", "big_cat", "dog"]):
        (tmp_path / name / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "deep" / f"{at}.png").write_bytes(tiny.pictures(3)[at])
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.png").write_bytes(b"")
    source = ClassFolder(str(tmp_path))
    assert source.classes == ("big cat", "dog")
    assert [source[at].label for at in range(len(source))] == [0, 1, 1]
    assert source[0].image == tiny.pictures(3)[1]
    before = source.fingerprint()
    (tmp_path / "dog" / "new.png").write_bytes(tiny.pictures(3)[0])
    assert ClassFolder(str(tmp_path)).fingerprint() != before


def test_wrong_fields_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match="label 3 has no class; 3 are named"):
        ZeroShot(tiny.memory(8), CLASSES[:3])(tiny.encoder())
    with pytest.raises(ConfigError, match="'openai_7'"):
        templates_of("openai_8")
    with pytest.raises(ConfigError, match="'b' has no"):
        templates_of(["a {}", "b"])
    (tmp_path / "x.png").write_bytes(tiny.pictures(1)[0])
    with pytest.raises(UserError, match="no class folders"):
        ClassFolder(str(tmp_path))


def test_every_evaluator_refuses_an_unknown_field() -> None:
    for name, make in EVALUATORS.items():
        with pytest.raises(ConfigError, match=f"evaluator '{name}' has no field 'nonsense'"):
            make(nonsense=1)
