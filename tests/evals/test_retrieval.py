"""Retrieval equals brute force, does not depend on devices or batches, and stands beside chance and blind."""

import jax
import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.sharding import make_mesh
from jvlm.data.sources import Sample
from jvlm.evals.metrics import shuffled
from jvlm.evals.nearest_pixels import NearestPixels
from jvlm.evals.retrieval import Retrieval, retrieval_scores
from tests.evals import tiny


def brute_recall(scores: np.ndarray, own: np.ndarray, k: int) -> float:
    """Sorts every row; positives after everything of the same score."""
    hits = []
    for row, mine in zip(scores, own):
        order = sorted(range(len(row)), key=lambda j: (-row[j], mine[j]))
        # Places taken by other positives do not push one out: the k best of the negatives compete.
        ahead = 0
        for j in order:
            if mine[j]:
                break
            ahead += 1
        hits.append(ahead < k)
    return float(np.mean(hits))


@pytest.fixture(scope="module")
def random_pairs():
    rng = np.random.default_rng(0)
    zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in rng.normal(size=(2, 40, 8)).astype(np.float32))
    return zimg[:16], ztxt, np.arange(16), np.concatenate([np.arange(16), rng.integers(0, 16, 24)])


def test_recalls_equal_brute_force_both_ways(random_pairs) -> None:
    zimg, ztxt, iid, tid = random_pairs
    scores = retrieval_scores(zimg, ztxt, iid, tid, make_mesh({"data": 1}, jax.devices()[:1]))
    own = iid[:, None] == tid
    for k in (1, 5, 10):
        assert scores[f"image_to_text_r{k}"].value == brute_recall(zimg @ ztxt.T, own, k)
        assert scores[f"text_to_image_r{k}"].value == brute_recall(ztxt @ zimg.T, own.T, k)
        assert scores[f"text_to_image_r{k}"].chance == pytest.approx(k / 16)
        assert scores[f"image_to_text_r{k}"].blind == brute_recall(zimg[shuffled(16)] @ ztxt.T, own, k)
    assert list(scores) == [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert scores["image_to_text_r1"].n == 16
    assert scores["text_to_image_r1"].n == 40


def test_perfect_embeddings_score_one_and_blind_ones_chance() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(200, 32)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    ids = np.arange(200)
    for score in retrieval_scores(z, z, ids, ids, make_mesh({"data": 2}, jax.devices()[:2])).values():
        assert score.value == 1
        assert score.blind < 0.1
        assert score.low > 0.97


def test_scores_do_not_depend_on_devices_or_batches() -> None:
    task = Retrieval(tiny.memory(21, captions=2))
    first = task(tiny.encoder(1, 8))
    for devices, batch in [(1, 5), (2, 8), (8, 16)]:
        assert task(tiny.encoder(devices, batch)) == first


def test_labels_make_every_picture_and_caption_of_one_label_belong_together() -> None:
    samples = [Sample(d, [f"kind {i % 3}"], i % 3, f"k{i}") for i, d in enumerate(tiny.pictures(9))]
    pairs = Retrieval(tiny.Memory(samples), positives="label").pairs()
    assert pairs.texts == ("kind 0", "kind 1", "kind 2")
    assert pairs.text_ids.tolist() == [0, 1, 2]
    assert pairs.image_ids.tolist() == [0, 1, 2] * 3
    scores = Retrieval(tiny.Memory(samples), positives="label")(tiny.encoder())
    assert scores["text_to_image_r1"].chance == pytest.approx(1 / 3)
    assert scores["text_to_image_r5"].chance == pytest.approx(1 - 6 / 126)


def test_captions_of_several_pictures_are_said_to_count_as_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    samples = [Sample(d, [text], 7, str(i)) for i, (d, text) in enumerate(zip(tiny.pictures(3), ("a", "a", "b")))]
    Retrieval(tiny.Memory(samples)).pairs()
    assert "retrieval: 1 of 3 captions stand at other pictures too" in capsys.readouterr().err
    Retrieval(tiny.Memory(samples), positives="label").pairs()
    assert capsys.readouterr().err == ""


def test_keys_choose_and_captions_limit() -> None:
    data = tiny.memory(6, captions=3)
    pairs = Retrieval(data, keys=["k4", "k1"], captions=2).pairs()
    assert pairs.samples.keys == ("k4", "k1")
    assert [t[:10] for t in pairs.texts] == ["a number 4", "a number 4", "a number 1", "a number 1"]
    assert pairs.samples.pictures[0] == data.samples[4].image


def test_wrong_data_is_named() -> None:
    with pytest.raises(UserError, match="no single sample 'k9'"):
        Retrieval(tiny.memory(3), keys=["k9"]).pairs()
    with pytest.raises(UserError, match="'x' has no caption"):
        Retrieval(tiny.Memory([Sample(b"", [], 0, "x")])).pairs()
    with pytest.raises(UserError, match="no samples"):
        Retrieval(tiny.Memory([])).pairs()
    with pytest.raises(UserError, match="'x' has no label"):
        Retrieval(tiny.Memory([Sample(b"", ["a"], None, "x")]), positives="label").pairs()
    with pytest.raises(ConfigError, match="valid names: key, label"):
        Retrieval(tiny.memory(3), positives="keys")
    with pytest.raises(ConfigError, match="'tar'"):
        Retrieval({"name": "tars"}).pairs()


def test_nearest_pixels_finds_equal_pictures_and_blind_does_not() -> None:
    data = tiny.pictures(30)
    shown = tiny.Memory([Sample(d, [str(i)], i, f"s{i}") for i, d in enumerate(data)])
    known = tiny.Memory([Sample(data[i % 30], [], i % 30, f"t{i}") for i in range(60)])
    scores = NearestPixels(shown, known)()
    assert scores["image_to_text_r1"].value == scores["text_to_image_r1"].value == 1
    assert scores["image_to_text_r1"].blind < 0.2
    assert scores["image_to_text_r1"].chance == pytest.approx(1 / 30)


def test_nearest_pixels_needs_a_training_picture_of_every_label() -> None:
    data = tiny.memory(4)
    with pytest.raises(UserError, match="label 3 has no training picture"):
        NearestPixels(data, tiny.Memory(data.samples[:3]))()
