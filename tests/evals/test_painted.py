"""Distances between sets of pictures and between pictures are those of their papers, computed another way."""

from typing import Any

import jax
import numpy as np
import pytest
from scipy import linalg, ndimage

from jvlm.core.errors import UserError
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor
from jvlm.evals.distribution import covered, distribution_scores, frechet_distance, kernel_distance
from jvlm.evals.encoder import Encoder, predict_fns
from jvlm.evals.reconstruction import Reconstruction, psnr, ssim, to_unit
from tests.evals import tiny
from tests.models_util import initialize
from tests.models_util import tiny as tiny_model


def features(count: int, seed: int, width: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + seed


def test_fid_is_the_paper_s_with_a_matrix_root() -> None:
    a, b = features(40, 0), features(30, 1)
    c1, c2 = (np.cov(x, rowvar=False) for x in (a, b))
    root: Any = linalg.sqrtm(c1 @ c2)
    wanted = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    # Fewer pictures than features: the root of a singular product.
    assert frechet_distance(a[:4], b[:3]) > 0


def test_kid_is_the_mean_over_pairs_of_different_pictures() -> None:
    a, b = features(7, 0, 3), features(5, 1, 3)

    def mean(x: np.ndarray, y: np.ndarray, same: bool) -> float:
        pairs = [(u @ v / 3 + 1) ** 3 for i, u in enumerate(x) for j, v in enumerate(y) if not (same and i == j)]
        return float(np.mean(pairs))

    wanted = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    assert kernel_distance(a, b) == pytest.approx(wanted, rel=1e-9)
    one = np.random.default_rng(0).normal(size=(2000, 3))
    assert abs(kernel_distance(one[:1000], one[1000:])) < 0.2 < kernel_distance(one[:1000], one[1000:] + 1)


def test_a_point_is_covered_within_the_distance_of_some_known_point_to_its_neighbour() -> None:
    known, asked = features(20, 0, 3), features(15, 0, 3)[:, ::-1]
    wanted = []
    for point in asked:
        within = False
        for at, centre in enumerate(known):
            others = sorted(np.linalg.norm(np.delete(known, at, 0) - centre, axis=1))
            within |= bool(np.linalg.norm(point - centre) <= others[2])
        wanted.append(within)
    assert 0 < sum(wanted) < 15
    np.testing.assert_array_equal(covered(known, asked, 3), wanted)


def test_pictures_like_the_real_ones_score_better_than_noise() -> None:
    rng = np.random.default_rng(0)
    real, made, none = rng.normal(size=(60, 4)), rng.normal(size=(60, 4)), rng.normal(size=(60, 4)) * 4
    scores = distribution_scores(real, made, none, 3)
    for name, score in scores.items():
        better = score.value < score.chance if name in ("fid", "kid") else score.value > score.chance
        assert score.low <= score.value <= score.high and score.n == 60
        assert score.blind == score.value
        assert better == (name != "recall"), name  # noise this wide reaches around all real pictures


def test_ssim_is_that_of_gaussian_windows_without_borders_and_psnr_is_in_decibels() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 16, 19, 3)), rng.uniform(size=(2, 16, 19, 3))
    b = 0.7 * a + 0.3 * b

    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, truncate=3.5, axes=(1, 2))[:, 5:-5, 5:-5]

    va, vb, both = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2, mean(a * b) - mean(a) * mean(b)
    top = (2 * mean(a) * mean(b) + 1e-4) * (2 * both + 9e-4)
    bottom = (mean(a) ** 2 + mean(b) ** 2 + 1e-4) * (va + vb + 9e-4)
    np.testing.assert_allclose(ssim(a, b), (top / bottom).mean(axis=(1, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(ssim(a, a), 1.0)
    assert psnr(np.zeros((1, 4, 4, 3)), np.full((1, 4, 4, 3), 0.1))[0] == pytest.approx(20.0)
    with pytest.raises(UserError, match="11 pixels or more"):
        ssim(a[:, :8], b[:, :8])


def test_reconstruction_scores_what_the_autoencoder_gives_back() -> None:
    model, variables, _ = initialize(tiny_model("autoencoder", image_size=16))
    encoder = Encoder(predict_fns(model), variables, Processor(ImageSpec.siglip(16)), batch_size=4)
    data = tiny.memory(6)
    scores = Reconstruction(data=data)(encoder)
    image = encoder.processor.images([sample.image for sample in data.samples])
    again = jax.jit(model.apply)(variables, image).image
    wanted = psnr(to_unit(image), to_unit(np.asarray(again))).mean()
    assert scores["psnr"].value == pytest.approx(wanted, rel=1e-4)
    assert scores["psnr"].low <= scores["psnr"].value <= scores["psnr"].high
    # The mean picture is better than random weights and a perfect reconstruction better than either.
    assert scores["psnr"].chance > scores["psnr"].value and -1 <= scores["ssim"].value < 1
