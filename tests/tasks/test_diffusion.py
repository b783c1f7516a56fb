"""The losses of denoisers and autoencoders are those of diffusers and torch, of the same weights and draws."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jvlm
from jvlm.losses.noise import Schedule, min_snr_weight, noised, target
from jvlm.tasks import TASKS
from jvlm.tasks.diffusion import Diffusion
from tests.cli.pipelines import PIPELINES
from tests.interop.diffusers_cases import channels_last, images
from tests.models_util import initialize, inputs, tiny
from tests.reference_diffusers import diffusers, torch


@dataclass(frozen=True)
class Trained:
    pipeline: Any
    model: Any
    params: Any
    batch: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline = PIPELINES["StableDiffusionPipeline"](folder)
    pipeline.save_pretrained(folder / "model")
    m = jvlm.load(folder / "model")
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32)
    tokens = m.processor.texts(["a dog", "a red apple", "", "two words"])
    return Trained(pipeline, m.model, m.params, dict(image=image, tokens=tokens))


def theirs(trained: Trained, task: Diffusion, rng: jax.Array, gamma: float | None, dropped: list[bool]) -> Any:
    """The losses [4] as diffusers' training scripts compute them."""
    pipeline = trained.pipeline
    height, width = trained.batch["image"].shape[1:3]
    draws = task.draws(jax.random.split(rng)[0], (4, height // 2, width // 2, 4))
    scheduler = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    times = torch.from_numpy(np.array(draws.times)).long()
    empty = pipeline.tokenizer("", padding="max_length", max_length=8).input_ids
    tokens = torch.from_numpy(trained.batch["tokens"]).long()
    tokens[torch.tensor(dropped)] = torch.tensor(empty)
    with torch.no_grad():
        posterior = pipeline.vae.encode(images(trained.batch["image"])).latent_dist
        z = (posterior.mean + posterior.std * images(draws.posterior)) * pipeline.vae.config.scaling_factor
        noise = images(draws.noise)
        told = pipeline.text_encoder(tokens).last_hidden_state
        out = pipeline.unet(scheduler.add_noise(z, noise, times), times, told).sample
        error = torch.nn.functional.mse_loss(out, noise, reduction="none").mean(dim=(1, 2, 3))
        if gamma is not None:
            snr = diffusers.training_utils.compute_snr(scheduler, times)
            error = error * torch.minimum(snr, torch.full_like(snr, gamma)) / snr
    return error


@pytest.mark.parametrize(
    ("gamma", "offset", "cached", "width"), [(None, 0.0, False, 8), (5.0, 0.1, True, 8), (None, 0.0, False, 14)]
)
def test_loss_is_that_of_diffusers_and_torch(
    trained: Trained, gamma: float | None, offset: float, cached: bool, width: int
) -> None:
    rng = jax.random.key(7)
    image = np.random.default_rng(width).uniform(-1, 1, (4, 8, width, 3)).astype(np.float32)
    trained = replace(trained, batch=dict(trained.batch, image=image))
    task = Diffusion(trained.model, caption_dropout=0.5, offset_noise=offset, min_snr=gamma, cached=cached)
    dropped = np.array(task.draws(jax.random.split(rng)[0], (4, 4, width // 2, 4)).dropped)
    assert dropped.any() and not dropped.all()
    batch: dict[str, Any] = dict(trained.batch)
    if cached:
        moments = jax.jit(task.predict_fns()["moments"])({"params": trained.params}, batch.pop("image"))
        batch["moments"] = moments
    loss = jax.jit(task.loss)(trained.params, {}, batch, rng)
    wanted = float(theirs(trained, task, rng, gamma, dropped.tolist()).mean())
    assert abs(float(loss.sum / loss.weight) - wanted) <= 1e-4 * wanted


def test_pictures_of_the_class_weigh_as_in_dreambooth(trained: Trained) -> None:
    rng, prior = jax.random.key(3), 0.4
    task = Diffusion(trained.model, caption_dropout=0.0)
    batch = dict(trained.batch, weight=np.asarray([1, 1, prior, prior], np.float32))
    loss = jax.jit(task.loss)(trained.params, {}, batch, rng)
    subject, kin = theirs(trained, task, rng, None, [False] * 4).chunk(2)
    wanted = float(subject.mean() + prior * kin.mean()) / (1 + prior)  # ours is a mean over the weights
    assert abs(float(loss.sum / loss.weight) - wanted) <= 1e-4 * wanted


def test_sdxl_learns_from_sizes_both_towers_and_zeros_for_no_text(tmp_path: Path) -> None:
    pipeline = PIPELINES["StableDiffusionXLPipeline"](tmp_path)
    pipeline.save_pretrained(tmp_path / "model")
    m = jvlm.load(tmp_path / "model")
    rng, key = np.random.default_rng(0), jax.random.key(3)
    task = Diffusion(m.model, caption_dropout=0.5, cached=True)
    draws = task.draws(jax.random.split(key)[0], (4, 4, 4, 4))
    dropped = torch.from_numpy(np.array(draws.dropped))
    assert dropped.any() and not dropped.all()
    sizes = rng.integers(1, 2000, (4, 6)).astype(np.float32)
    batch = dict(moments=rng.normal(size=(4, 4, 4, 8)).astype(np.float32), sizes=sizes)
    batch["tokens"] = m.processor.texts(["a dog", "a red apple", "", "two words"])
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in m.model.example(4).items()}
    assert {key: x.shape for key, x in task.shapes(shapes).items()} == {key: x.shape for key, x in batch.items()}
    loss = jax.jit(task.loss)(m.params, {}, batch, key)
    scheduler, times = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config), np.array(draws.times)
    with torch.no_grad():
        mean, log_variance = images(batch["moments"]).chunk(2, dim=1)
        z = (mean + torch.exp(0.5 * log_variance) * images(draws.posterior)) * pipeline.vae.config.scaling_factor
        tokens = torch.from_numpy(batch["tokens"]).long()
        second = torch.from_numpy(np.array(m.model.repadded(jnp.asarray(batch["tokens"])))).long()
        told = [
            tower(ids, output_hidden_states=True)
            for tower, ids in ((pipeline.text_encoder, tokens), (pipeline.text_encoder_2, second))
        ]
        context = torch.cat([out.hidden_states[-2] for out in told], dim=-1)
        context[dropped], told[1].text_embeds[dropped] = 0, 0
        added = dict(text_embeds=told[1].text_embeds, time_ids=torch.from_numpy(sizes))
        noise, at = images(draws.noise), torch.from_numpy(times).long()
        out = pipeline.unet(scheduler.add_noise(z, noise, at), at, context, added_cond_kwargs=added).sample
        wanted = float(torch.nn.functional.mse_loss(out, noise))
    assert abs(float(loss.sum / loss.weight) - wanted) <= 1e-4 * wanted


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0", "flow"])
def test_what_is_predicted_gives_the_picture_back(prediction: str) -> None:
    from jvlm.generate.steps import noise_of, picture_of

    rng = np.random.default_rng(1)
    x, noise = (jnp.asarray(rng.normal(size=(1, 4)), jnp.float32) for _ in range(2))
    a, s = (0.4, 0.6) if prediction == "flow" else (0.6, 0.8)
    alpha, sigma = jnp.full((1, 1), a), jnp.full((1, 1), s)
    seen, told = noised(x, noise, alpha, sigma), target(prediction, x, noise, alpha, sigma)
    for factors, wanted in ((picture_of(prediction, a, s), x), (noise_of(prediction, a, s), noise)):
        np.testing.assert_allclose(factors[0] * seen + factors[1] * told, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("zero", [False, True])
def test_schedules_are_those_of_diffusers(kind: str, zero: bool) -> None:
    theirs = dict(linear="linear", scaled_linear="scaled_linear", cosine="squaredcos_cap_v2")[kind]
    config: dict[str, Any] = dict(beta_start=0.001, beta_end=0.02, beta_schedule=theirs, rescale_betas_zero_snr=zero)
    wanted = diffusers.DDIMScheduler(**config).alphas_cumprod.numpy()
    ours = Schedule(kind, beta_start=0.001, beta_end=0.02, zero_terminal_snr=zero).survival()
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-7)
    assert (ours[-1] == 0) == zero


def test_min_snr_weighs_by_the_prediction() -> None:
    alpha, sigma = jnp.asarray([0.9, 0.1, 0.0]), jnp.asarray([0.1, 0.9, 1.0])
    snr = np.asarray([81.0, 1 / 81, 0.0])
    np.testing.assert_allclose(min_snr_weight("epsilon", alpha, sigma, 5.0), [5 / 81, 1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(min_snr_weight("v", alpha, sigma, 5.0), np.minimum(snr, 5) / (snr + 1), rtol=1e-5)
    np.testing.assert_allclose(min_snr_weight("x0", alpha, sigma, 5.0), np.minimum(snr, 5), rtol=1e-5)


@pytest.mark.parametrize(("family", "task"), [("autoencoder", "autoencoder"), ("vq", "codebook-autoencoder")])
def test_placeholders_change_no_autoencoder_s_loss(family: str, task: str) -> None:
    model, variables, _ = initialize(tiny(family))
    image = np.array(inputs(model, batch=4)["image"])
    weight = np.asarray([1, 0, 1, 1], np.float32)
    run = jax.jit(TASKS[task](model).loss)
    one = run(variables["params"], {}, dict(image=image, weight=weight), jax.random.key(0))
    image[1] = 7.0
    other = run(variables["params"], {}, dict(image=image, weight=weight), jax.random.key(0))
    np.testing.assert_allclose(one.sum, other.sum, rtol=1e-6)
    assert one.weight == 3
    assert set(one.metrics) >= {"reconstruction"}


def test_commitment_is_that_of_the_reference_quantizer() -> None:
    from jvlm.losses.diffusion import commitment, perplexity

    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    quantizer = diffusers.models.autoencoders.vae.VectorQuantizer(11, 4, beta=0.25, legacy=False)
    chosen, wanted, (_, _, codes) = quantizer(images(latents))
    moved, kept = commitment(jnp.asarray(latents), jnp.asarray(channels_last(chosen.detach())), 0.25)
    np.testing.assert_allclose(float((moved + kept).mean()), wanted.item(), rtol=1e-5)
    counts = np.bincount(codes.numpy(), minlength=11).astype(np.float32)
    share = counts[counts > 0] / counts.sum()
    np.testing.assert_allclose(perplexity(jnp.asarray(counts)), np.exp(-(share * np.log(share)).sum()), rtol=1e-5)
