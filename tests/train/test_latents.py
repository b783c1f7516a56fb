"""Latents in shards are what the autoencoder makes of the pictures, and what a run without a picture trains on."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image

from jvlm.core.errors import UserError
from jvlm.data import DATASETS
from jvlm.data.image_ops import read_picture
from jvlm.data.image_spec import ImageSpec
from jvlm.data.pack import pack
from jvlm.data.pipeline import make_train_iterator
from jvlm.data.processor import Processor
from jvlm.data.sources import Sample
from jvlm.interop.pretrained import Pretrained
from jvlm.train.latents import LatentSource
from tests.data import shards
from tests.evals import tiny
from tests.models_util import initialize
from tests.models_util import tiny as tiny_model


@pytest.fixture(scope="module")
def autoencoder() -> Pretrained:
    config = tiny_model("autoencoder")
    model, variables, _ = initialize(config)
    return Pretrained(model, variables["params"], {}, config, Processor(ImageSpec.siglip(8)), {})


@pytest.fixture(scope="module")
def packed(autoencoder: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> tuple[shards.Memory, Path, Any]:
    made = shards.samples(5)
    made[3] = made[3]._replace(image=b"no picture")
    folder = tmp_path_factory.mktemp("latents")
    source = shards.Memory(made)
    return source, folder, pack(LatentSource(source, autoencoder, mirror=True, window=4), str(folder))


def stored(sample: Sample) -> np.ndarray:
    return np.load(io.BytesIO(sample.image))


@partial(jax.jit, static_argnums=0)
def encode(model: Any, params: Any, image: jax.Array) -> Any:
    return model.apply({"params": params}, image, method="encode")


def moments(autoencoder: Pretrained, picture: Any) -> np.ndarray:
    image = jnp.asarray(autoencoder.processor.images([picture]))
    latents: Any = encode(autoencoder.model, autoencoder.params, image)
    return np.concatenate([latents.mean, latents.log_variance], axis=-1)[0]


def test_shards_hold_what_the_autoencoder_makes_of_pictures_and_their_mirror_images(
    autoencoder: Pretrained, packed: tuple[shards.Memory, Path, Any]
) -> None:
    source, folder, result = packed
    assert (result["samples"], result["skipped"]) == (8, {"unreadable picture": 2})
    found = DATASETS["tar"](paths=str(folder))
    kept = [0, 1, 2, 4]
    for at, (index, mirrored) in enumerate([*((i, False) for i in kept), *((i, True) for i in kept)]):
        sample = found[at]
        assert sample.captions == source[index].captions and sample.extra["mirrored"] == mirrored
        assert sample.extra["sizes"] == [24, 32, 0, 0, 8, 8]
        picture = np.asarray(read_picture(source[index].image))
        wanted = moments(autoencoder, picture[:, ::-1] if mirrored else picture)
        np.testing.assert_allclose(stored(sample), wanted, atol=1e-5)


def test_a_batch_of_latents_takes_the_place_of_pictures_and_other_shapes_count_as_bad(
    packed: tuple[shards.Memory, Path, Any],
) -> None:
    _, folder, _ = packed
    source = DATASETS["tar"](paths=str(folder))
    batch = next(make_train_iterator(source, shards.processor(), batch_size=8, seed=0, moments=(4, 4, 8)))
    assert "image" not in batch and batch["moments"].shape == (8, 4, 4, 8)
    for row, index in zip(batch["moments"], batch["index"]):
        np.testing.assert_array_equal(row, stored(source[int(index)]))
    assert batch["weight"].all() and batch["tokens"].shape == (8, 10)
    other = make_train_iterator(source, shards.processor(), batch_size=8, seed=0, moments=(4, 4, 6), min_bad=99)
    assert not next(other)["weight"].any() and other.counters == {"other latents": 8}


def test_an_autoencoder_without_preprocessing_sees_the_middle_and_a_batch_says_what_was_cut(
    autoencoder: Pretrained, tmp_path: Path
) -> None:
    upright = shards.samples(1)[0]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    read_picture(upright.image).save(buffer, "jpeg", quality=95, exif=exif.tobytes())
    source = shards.Memory([upright, upright._replace(image=buffer.getvalue())])
    pack(LatentSource(source, replace(autoencoder, processor=Processor())), str(tmp_path))
    found = DATASETS["tar"](paths=str(tmp_path))
    made = make_train_iterator(found, shards.processor(), batch_size=2, seed=0, moments=(4, 4, 8), sizes=True)
    batch = next(made)
    # 24 x 32 pixels, and on their side; scaled, the shorter side has 8 and the longer 10.
    by_index = dict(zip(batch["index"].tolist(), batch["sizes"].tolist()))
    assert by_index == {0: [24, 32, 0, 1, 8, 8], 1: [32, 24, 1, 0, 8, 8]}
    spec = ImageSpec.clip(8, mean=(0.5,) * 3, std=(0.5,) * 3)
    wanted = moments(replace(autoencoder, processor=Processor(spec)), upright.image)
    np.testing.assert_allclose(stored(found[0]), wanted, atol=1e-5)


def test_latents_without_sizes_count_as_bad_where_a_model_asks_for_them(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 4, 8), np.float32))
    made = [sample._replace(image=buffer.getvalue()) for sample in shards.samples(2)]
    pack(shards.Memory(made), str(tmp_path))
    source = DATASETS["tar"](paths=str(tmp_path))
    options: Any = dict(batch_size=2, seed=0, moments=(4, 4, 8), min_bad=99)
    assert next(make_train_iterator(source, shards.processor(), **options))["weight"].all()
    iterator = make_train_iterator(source, shards.processor(), sizes=True, **options)
    assert not next(iterator)["weight"].any() and iterator.counters == {"no sizes": 2}


def test_only_an_autoencoder_makes_latents() -> None:
    model, variables, processor = tiny.clip()
    clip = Pretrained(model, variables["params"], {}, {}, processor, {})
    with pytest.raises(UserError, match="makes no latents"):
        LatentSource(shards.Memory(shards.samples(1)), clip)
