"""Embeddings are exact for any number of inputs, any batch size and any number of devices."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from jvlm import models
from jvlm.core.errors import UserError
from jvlm.evals.encoder import Encoder, ends_by_itself, used_length
from tests.evals import tiny
from tests.models_util import initialize

TEXTS = ["a", "two words", "a rather long caption, with a comma and an end!", "", "the last one"]


def direct_images(data: list[bytes]) -> np.ndarray:
    model, variables, processor = tiny.clip()
    return np.asarray(jax.jit(lambda v, x: model.apply(v, image=x).zimg)(variables, processor.images(data)))


def direct_texts(texts: list[str]) -> np.ndarray:
    model, variables, processor = tiny.clip()
    return np.asarray(jax.jit(lambda v, x: model.apply(v, tokens=x).ztxt)(variables, processor.texts(texts)))


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 8), (1, 5), (2, 8), (8, 8), (8, 3)])
@pytest.mark.parametrize("count", [1, 8, 19])
def test_every_picture_once_in_order_whatever_the_batches(devices: int, batch_size: int, count: int) -> None:
    data = tiny.pictures(count)
    out = tiny.encoder(devices, batch_size).images(data)
    assert out.shape == (count, 24)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, direct_images(data), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("devices", "batch_size"), [(1, 64), (2, 2), (8, 8)])
def test_texts_equal_the_model_on_full_padding(devices: int, batch_size: int) -> None:
    np.testing.assert_allclose(tiny.encoder(devices, batch_size).texts(TEXTS), direct_texts(TEXTS), atol=2e-6)


def test_texts_of_like_length_share_a_batch() -> None:
    encoder, widths = tiny.encoder(1, 2), []
    run = encoder._fns["text"]
    encoder._fns["text"] = lambda variables, x: (widths.append(x.shape[1]), run(variables, x))[1]
    long = "a red cat and a dog on a boat in the sea"
    out = encoder.texts(["a", long, "b", long])
    assert widths[0] < widths[1]
    np.testing.assert_allclose(out, direct_texts(["a", long, "b", long]), atol=2e-6)


def test_no_input_gives_no_rows() -> None:
    encoder = tiny.encoder(2)
    assert encoder.images([]).shape == (0, 24)
    assert encoder.texts([]).shape == (0, 24)


def test_one_program_for_all_batches(caplog) -> None:
    encoder = tiny.encoder(1, 4)
    with jax.log_compiles():
        encoder.images(tiny.pictures(11))
    assert sum("Compiling jit(image)" in line for line in caplog.messages) == 1
    caplog.clear()
    with jax.log_compiles():
        encoder.images(tiny.pictures(7))
    assert not any("Compiling jit(image)" in line for line in caplog.messages)


def test_padding_is_cut_only_where_it_cannot_matter() -> None:
    clip = models.create(dict(family="clip", **models.MODELS["clip"].tiny))
    siglip = models.create(dict(family="siglip", **models.MODELS["siglip"].tiny))
    assert ends_by_itself(clip)
    assert not ends_by_itself(siglip)
    assert not ends_by_itself(models.create(dict(family="clip", **models.MODELS["clip"].tiny)).image_tower)
    # One padding token stays behind the longest text; lengths are multiples of 8 and never above the model's.
    assert used_length(np.asarray([[5, 9, 0, 0] * 6]), 0) == 24
    assert used_length(np.asarray([[5, 9] + [0] * 22]), 0) == 8
    assert used_length(np.asarray([[5] * 7 + [0] * 17]), 0) == 8
    assert used_length(np.asarray([[5] * 8 + [0] * 16]), 0) == 16
    assert used_length(np.asarray([[5] * 10]), 0) == 10


def test_paths_arrays_and_pictures_are_taken_too(tmp_path) -> None:
    (data,) = tiny.pictures(1)
    (tmp_path / "a.png").write_bytes(data)
    picture = Image.open(io.BytesIO(data))
    out = tiny.encoder().images([data, tmp_path / "a.png", str(tmp_path / "a.png"), picture, np.asarray(picture)])
    np.testing.assert_allclose(out, np.repeat(out[:1], 5, axis=0), atol=1e-6)


def test_a_bad_picture_is_named(tmp_path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"bad\.png: not a readable picture"):
        tiny.encoder().images([*tiny.pictures(20), tmp_path / "bad.png"])
    with pytest.raises(UserError, match=r"number 3: .*not a readable picture"):
        tiny.encoder().images([*tiny.pictures(3), b"no picture"])


def test_an_image_tower_alone_embeds_pictures_and_says_that_it_has_no_text() -> None:
    model, variables, _ = initialize(dict(models.MODELS["vit"].tiny, family="vit"))
    _, _, processor = tiny.clip()
    encoder = Encoder.for_model(model, variables, processor)
    out = encoder.images(tiny.pictures(3))
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    with pytest.raises(UserError, match="no text tower"):
        encoder.texts(["a"])
