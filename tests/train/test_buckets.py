"""A run on buckets resumes exactly, equals a plain one where there is one bucket, and its latents come by bucket."""

import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jvlm.checkpoint.parts import read_parts
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.types import Grads, Loss, Variables
from jvlm.data import DATASETS
from jvlm.data.buckets import Buckets, nearest
from jvlm.data.image_spec import ImageSpec
from jvlm.data.pack import pack, pack_parts
from jvlm.data.pipeline import make_train_iterator
from jvlm.data.processor import Processor
from jvlm.interop.pretrained import Pretrained
from jvlm.tasks import TASKS
from jvlm.tasks.base import accumulate
from jvlm.tasks.diffusion import Diffusion
from jvlm.train import loop
from jvlm.train.config import check_resumable, load_config
from jvlm.train.data import make_data
from jvlm.train.latents import bucketed
from jvlm.train.setup import setup
from tests.data import pictures, shards
from tests.models_util import initialize
from tests.models_util import tiny as tiny_model
from tests.train.cases import ROOT, losses

SIZES = ((24, 10), (20, 20), (11, 25), (24, 40), (40, 24))
FIELDS = dict(side=8, step=2, ratio=2)
LATENTS = dict(side=4, step=1, ratio=2, without=((5, 3),))


def samples(count: int) -> list[Any]:
    made = shards.samples(count)
    return [s._replace(image=pictures.jpeg(*SIZES[i % len(SIZES)], seed=i)) for i, s in enumerate(made)]


def toy(data: Path, *overrides: str) -> ConfigDict:
    """The emoji's denoiser at its smallest, whose autoencoder keeps the size, on data of several shapes."""
    small = [f"model.unet.{field}" for field in ("widths=[16]", "depths=[1]", "num_heads=[2]")]
    small += [f"model.vae.{field}" for field in ("widths=[8]", "image_size=8")]
    small += ["processor.image={'kind': 'clip'}", "optimizer.schedule.warmup=1", "checkpoint={'keep_last': 9}"]
    small.append("data=" + repr(dict(name="tar", paths=str(data))))
    config = load_config(str(ROOT / "configs" / "ldm_tiny_emoji_pretrain.py") + ":tiny", [*small, *overrides])
    with config.unlocked():
        config.micro_batches = 2
    return config


@dataclass(frozen=True)
class Mean:
    """What takes the place of a denoiser, which compiles for long: the mean of latents that noise was added to."""

    model: Any

    def shapes(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        return Diffusion(self.model, cached=True).shapes(batch)

    def init(self, rng: jax.Array, batch: Any) -> Variables:
        return Variables({"mean": jnp.zeros(batch["moments"].shape[-1])}, {})

    def loss(self, params: Any, state: Any, batch: Any, rng: jax.Array) -> Loss:
        seen = batch["moments"] + jax.random.normal(rng, batch["moments"].shape)
        errors = ((seen - params["mean"]) ** 2).mean(axis=(1, 2, 3)) * batch["weight"]
        return Loss(errors.sum(), batch["weight"].sum(), state, {})

    def grads(self, params: Any, frozen: Any, state: Any, batches: Any, rng: jax.Array) -> Grads:
        return accumulate(self.loss, params, frozen, state, batches, rng)

    def predict_fns(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards.write_tar(tmp_path_factory.mktemp("data") / "a.tar", samples(150))


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thirds squares."""
    rng, made = np.random.default_rng(0), shards.samples(48)
    for i, sample in enumerate(made):
        buffer = io.BytesIO()
        np.save(buffer, rng.normal(size=(3, 5, 8) if i % 3 == 0 else (4, 4, 8)).astype(np.float32))
        made[i] = sample._replace(image=buffer.getvalue())
    folder = tmp_path_factory.mktemp("latents")
    pack(shards.Memory(made), str(folder))
    return folder


@pytest.fixture(scope="module")
def autoencoder() -> Pretrained:
    config = tiny_model("autoencoder")
    model, variables, _ = initialize(config)
    return Pretrained(model, variables["params"], {}, config, Processor(ImageSpec.siglip(8)), {})


def test_a_run_on_buckets_goes_on_bit_for_bit_and_compiles_once_a_shape(
    latents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With gradients over two micro-batches, on eight devices."""
    monkeypatch.setitem(TASKS, "mean", Mean)
    steps: list[Any] = []
    compile_step = loop.compile_step
    monkeypatch.setattr(loop, "compile_step", lambda *args: steps.append(compile_step(*args)) or steps[-1])
    config = toy(latents, f"pipeline={dict(buckets=LATENTS)}", "task={'name': 'mean'}", "frozen=()")
    loop.train(config, str(tmp_path / "whole"), quiet=True)
    assert setup(config, abstract=True).buckets == ((3, 5), (4, 4)) and steps[0]._cache_size() == 2
    record = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[0])
    facts = {name.removeprefix("data/"): value for name, value in record.items() if name.startswith("data/")}
    assert facts == dict(samples=48, left_out=0, buckets=2, smallest_bucket=16, batches=3, waiting=0)
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "00000002", tmp_path / "again" / "checkpoints" / "00000002")
    loop.train(config, str(tmp_path / "again"), quiet=True)
    one, other = (read_parts(tmp_path / name / "checkpoints", ("params", "opt_state")) for name in ("whole", "again"))
    assert one.step == other.step == 4 and one.meta == other.meta and one.meta["position"] == 64
    jax.tree.map(np.testing.assert_array_equal, one.tree, other.tree)
    whole, again = losses(tmp_path / "whole"), losses(tmp_path / "again")
    assert [again[step] for step in (3, 4)] == [whole[step] for step in (3, 4)] and len(whole) == 4


def test_a_resumed_run_keeps_its_buckets() -> None:
    before, now = (dict(pipeline=dict(workers=workers, buckets=dict(side=8, ratio=workers))) for workers in (2, 3))
    with pytest.raises(ConfigError, match=r"with pipeline.buckets.ratio = 2, this configuration has 3"):
        check_resumable(before, now, "here")
    with pytest.raises(ConfigError, match=r"with pipeline.buckets = None"):
        check_resumable({}, now, "here")
    now["pipeline"]["buckets"] = before["pipeline"]["buckets"]
    assert check_resumable(before, now, "here") == ["pipeline.workers = 3 (was 2)"]


def test_a_run_with_one_bucket_has_the_batches_of_one_without(data: Path) -> None:
    run = setup(toy(data, "pipeline={'buckets': {'side': 8, 'step': 8, 'ratio': 1}}"), abstract=True)
    assert run.buckets == ((8, 8),)
    one, plain = (make_data(each, 32, {}) for each in (run, replace(run, buckets=())))
    for _ in range(12):
        np.testing.assert_equal(next(one), next(plain))
    plain.close()
    one.close()


def test_what_a_model_cannot_learn_from_is_refused(data: Path) -> None:
    halving = [f"model.unet.{field}" for field in ("widths=[16,32]", "depths=[1,1]", "num_heads=[2,2]")]
    odd = toy(data, f"pipeline={dict(buckets=dict(side=9, step=3))}", *halving)
    with pytest.raises(ConfigError, match="step = 3 is no multiple of 2"):
        setup(odd, abstract=True)
    with pytest.raises(ConfigError, match="no dictionary"):
        setup(toy(data, "pipeline={'buckets': 'sdxl'}"), abstract=True)
    clip = load_config(str(ROOT / "configs" / "clip_tiny_emoji_pretrain.py") + ":tiny", [f"pipeline.buckets={FIELDS}"])
    with pytest.raises(ConfigError, match="only a latent diffusion model"):
        setup(clip, abstract=True)


def test_latents_come_by_bucket_with_the_sizes_of_their_pictures(autoencoder: Pretrained, tmp_path: Path) -> None:
    made = samples(9)
    made[4] = made[4]._replace(image=b"no picture")
    buckets = Buckets(side=16, step=8, ratio=3, least=0.5)
    result = pack_parts(bucketed(shards.Memory(made), autoencoder, buckets, mirror=True), str(tmp_path))
    assert (result["samples"], result["skipped"]) == (16, {"unreadable picture": 2})
    names = sorted(path.name for path in tmp_path.glob("*.tar"))
    assert len(names) == result["shards"] == 3
    source = DATASETS["tar"](paths=str(tmp_path))
    sizes = buckets.sizes()
    for index in range(len(source)):
        sample = source[index]
        original = np.asarray([SIZES[int(sample.extra["key"]) % 5]], np.int32)
        size = sizes[nearest(sizes, original)[0]]
        assert sample.extra["key"] != "00004" and sample.key.startswith(f"{size[0]}x{size[1]}-")
        told = sample.extra["sizes"]
        assert told[:2] == original[0].tolist() and told[4:] == list(size)
        scale = max(size[0] / told[0], size[1] / told[1])
        assert all(abs(told[2 + k] - (told[k] * scale - size[k]) / 2) <= 1 for k in (0, 1))
    factor = autoencoder.model.factor
    kept = tuple((height // factor, width // factor) for height, width in sizes)
    options: dict[str, Any] = dict(batch_size=2, seed=0, moments=(1, 1, 8), sizes=True, threads=1)
    iterator = make_train_iterator(source, shards.processor(), buckets=kept, **options)
    seen = set()
    for _ in range(12):
        batch = next(iterator)
        shape = batch["moments"].shape[1:]
        assert batch["weight"].all() and shape[:2] in kept
        assert (batch["sizes"][:, 4:] == np.asarray(shape[:2]) * factor).all()
        seen.add(shape)
    iterator.close()
    assert len(seen) == 3 and iterator.facts["samples"] == 16
    with pytest.raises(UserError, match=r"latents \[\d, \d\], a size that pipeline.buckets has not"):
        make_train_iterator(source, shards.processor(), buckets=kept[:1], min_bad=1, **options)
    with pytest.raises(ConfigError, match="step = 3 is no multiple of 2"):
        bucketed(shards.Memory(made), autoencoder, Buckets(side=9, step=3))


def test_sdxl_is_told_the_sizes_of_pictures_that_are_not_cached(data: Path) -> None:
    unet = dict(size_dim=4, pooled_dim=20)
    second = dict(vocab_size=49_408, length=16, width=24, depth=2, num_heads=2, mlp_dim=64, embed_dim=20)
    config = toy(data, f"pipeline={dict(buckets=FIELDS | dict(side=10))}")
    model: Any = config.model
    with config.unlocked():
        model.unet.update(unet)
        model.unet.context_dim = 88
        model.text_2, model.pads = ConfigDict(second), (49_407, 0)
    batch = setup(config, abstract=True).batch
    assert batch["sizes"].shape == (16, 6) and batch["image"].shape == (16, 10, 10, 3)
