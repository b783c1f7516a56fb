"""Samplers against diffusers' schedulers: the same trajectory from the same latents and noise."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import ConfigError
from jvlm.generate.diffusion import guided, initial_noise, picture_keys, run, start
from jvlm.generate.samplers import SAMPLERS, plan
from jvlm.generate.steps import Plan, Settings, put
from jvlm.losses.noise import Schedule
from tests.reference_diffusers import diffusers, torch

# diffusers makes arrays of tensors in a way that numpy will stop to accept.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
STEPS = 20
SHAPE = (2, 4, 4, 3)
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
V = dict(SD, prediction_type="v_prediction")


@dataclass(frozen=True)
class Case:
    """A sampler of ours and the scheduler that it is held to."""

    name: str
    scheduler: str
    config: dict[str, Any]
    schedule: Schedule = field(default_factory=Schedule)
    settings: Settings = field(default_factory=Settings)
    options: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0


LEADING = Settings(spacing="leading", offset=1, final_one=False)
OFFSET = dict(timestep_spacing="leading", steps_offset=1)
LINSPACE, TRAILING = Settings(spacing="linspace"), Settings(spacing="trailing")
LINEAR = Schedule("linear", beta_start=1e-4, beta_end=0.02)
CASES: dict[str, Case] = {
    "ddpm, clipped": Case("ddpm", "DDPM", {}, LINEAR, Settings(clip=1.0)),
    "ddpm, v, cosine": Case(
        "ddpm", "DDPM", dict(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False,
        timestep_spacing="trailing"), Schedule("cosine", prediction="v"), TRAILING,
    ),
    "ddim of SD": Case("ddim", "DDIM", dict(SD, **OFFSET, set_alpha_to_one=False, clip_sample=False), settings=LEADING),
    "ddim, eta, clipped, x0": Case(
        "ddim", "DDIM", dict(prediction_type="sample"), Schedule("linear", 1000, 1e-4, 0.02, "x0"),
        Settings(clip=1.0, eta=0.7), dict(eta=0.7),
    ),
    "ddim without a signal at the end": Case(
        "ddim", "DDIM", dict(V, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False),
        Schedule(prediction="v", zero_terminal_snr=True), TRAILING,
    ),
    "pndm of SD": Case("pndm", "PNDM", dict(SD, **OFFSET, skip_prk_steps=True), settings=LEADING),
    "pndm with Runge-Kutta steps, v": Case(
        "pndm", "PNDM", V, Schedule(prediction="v"), Settings(runge_kutta=True, final_one=False)
    ),
    "pndm from the middle": Case(
        "pndm", "PNDM", dict(SD, **OFFSET, skip_prk_steps=True), settings=LEADING, strength=0.6
    ),
    "euler": Case("euler", "EulerDiscrete", SD, settings=LINSPACE),
    "euler of SDXL": Case("euler", "EulerDiscrete", dict(SD, **OFFSET), settings=LEADING),
    "euler, v, Karras": Case(
        "euler", "EulerDiscrete", dict(V, use_karras_sigmas=True), Schedule(prediction="v"),
        Settings(spacing="linspace", karras=True),
    ),
    "euler ancestral": Case("euler-ancestral", "EulerAncestralDiscrete", SD, settings=LINSPACE),
    "heun": Case("heun", "HeunDiscrete", dict(SD, timestep_spacing="trailing"), settings=TRAILING),
    "heun from the middle": Case("heun", "HeunDiscrete", SD, settings=LINSPACE, strength=0.5),
    "dpm++": Case("dpm++", "DPMSolverMultistep", SD, settings=LINSPACE),
    "dpm++, v, Karras": Case(
        "dpm++", "DPMSolverMultistep", dict(V, use_karras_sigmas=True), Schedule(prediction="v"), Settings(karras=True)
    ),
    "dpm++ from the middle": Case("dpm++", "DPMSolverMultistep", dict(SD, **OFFSET), settings=LEADING, strength=0.7),
    "dpm++ with noise": Case(
        "dpm++-sde", "DPMSolverMultistep", dict(SD, algorithm_type="sde-dpmsolver++"), settings=LINSPACE
    ),
    "unipc": Case("unipc", "UniPCMultistep", SD, settings=LINSPACE),
    "unipc, x0, trailing": Case(
        "unipc", "UniPCMultistep", dict(SD, prediction_type="sample", timestep_spacing="trailing"),
        Schedule(prediction="x0"), TRAILING,
    ),
    "lcm": Case("lcm", "LCM", {}),
    "flow": Case("flow", "FlowMatchEulerDiscrete", dict(shift=3.0), Schedule("flow", prediction="flow", shift=3.0)),
}  # fmt: skip


def model(x: Any, time: Any, np_: Any) -> Any:
    """A smooth function of the picture and the time, as bounded as a trained model is; in torch and in jax."""
    phase = time / 1000.0
    return 0.7 * np_.tanh(x) + 0.3 * np_.sin(3.0 * x + 5.0 * phase) - 0.1


@functools.cache
def noises() -> np.ndarray:
    """Noise of the start, then of every step."""
    return np.random.default_rng(0).normal(size=(2 * STEPS + 2, *SHAPE)).astype(np.float32)


def theirs(case: Case, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    scheduler = getattr(diffusers, f"{case.scheduler}Scheduler")(**case.config)
    scheduler.set_timesteps(STEPS)
    drawn = iter(torch.from_numpy(noises()[1:]))
    for module in ("ddpm", "ddim", "euler_ancestral_discrete", "dpmsolver_multistep", "lcm"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", lambda *_, **__: next(drawn))
    times = scheduler.timesteps
    x = torch.from_numpy(noises()[0]) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    if case.strength < 1:
        first = (STEPS - int(STEPS * case.strength)) * scheduler.order
        scheduler.set_begin_index(first) if hasattr(scheduler, "set_begin_index") else None
        times = times[first:]
        x = scheduler.add_noise(torch.full(SHAPE, 0.25), torch.from_numpy(noises()[0]), times[:1].expand(SHAPE[0]))
    for time in times:
        scaled = scheduler.scale_model_input(x, time) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(scaled, time, torch), time, x, **case.options).prev_sample
    return x.numpy()


@functools.partial(jax.jit, static_argnames=("stochastic",))
def ours(steps: Plan, x: jax.Array, drawn: jax.Array, stochastic: bool) -> jax.Array:
    def denoise(x: jax.Array, times: jax.Array) -> jax.Array:
        return model(x, times[:, None, None, None], jnp)

    return run(steps, denoise, x, noises=drawn if stochastic else None)


@pytest.mark.parametrize("name", CASES)
def test_trajectory_is_the_scheduler_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    steps = plan(case.name, case.schedule, STEPS, case.settings, case.strength)
    picture = jnp.full(SHAPE, 0.25) if case.strength < 1 else None
    drawn = noises()[1 : 1 + len(steps.times)]
    wanted = theirs(case, monkeypatch)
    out = ours(put(steps), start(steps, jnp.asarray(noises()[0]), picture), drawn, steps.stochastic)
    assert np.abs(np.asarray(out) - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())


def test_every_sampler_is_held_to_a_scheduler() -> None:
    assert {case.name for case in CASES.values()} == SAMPLERS.keys()


def test_plans_of_one_length_share_a_program() -> None:
    program: Any = ours
    before = program._cache_size()
    for name in ("ddim", "euler"):
        steps = plan(name, Schedule(), 7)
        ours(put(steps), start(steps, jnp.asarray(noises()[0])), noises()[:7], False)
    assert program._cache_size() == before + 1


def test_noise_of_a_picture_depends_on_neither_batch_nor_devices() -> None:
    whole = initial_noise(3, jnp.arange(8), (4, 4, 2))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    draw: Callable[..., Any] = jax.jit(lambda indices: initial_noise(3, indices, (4, 4, 2)), out_shardings=sharding)
    spread = draw(jnp.arange(8))
    assert len(spread.sharding.device_set) == 8
    assert np.array_equal(whole, spread)
    assert np.array_equal(whole[5:6], initial_noise(3, jnp.asarray([5]), (4, 4, 2)))
    assert len({tuple(picture.ravel()[:3].tolist()) for picture in whole}) == 8


def test_guidance_is_that_of_two_calls() -> None:
    rng = np.random.default_rng(1)
    x, told, plain = (jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32) for _ in range(3))

    def calls(x: jax.Array, times: jax.Array, context: jax.Array) -> jax.Array:
        return x * times[:, None, None, None] + context

    times = jnp.asarray([2.0, 3.0])
    both = guided(calls, {"context": told}, {"context": plain}, 7.5, 0.7)
    one, other = (calls(x, times, context) for context in (plain, told))
    mixed = one + 7.5 * (other - one)
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    wanted = rescale_noise_cfg(*(torch.from_numpy(np.array(a)) for a in (mixed, other)), guidance_rescale=0.7)
    np.testing.assert_allclose(both(x, times), wanted, atol=1e-4)
    np.testing.assert_allclose(guided(calls, {"context": told}, None, 7.5)(x, times), other)


def test_what_is_known_stays() -> None:
    steps = plan("euler-ancestral", Schedule(), 5, Settings(spacing="linspace"))
    picture, noise = jnp.full(SHAPE, 0.3), jnp.asarray(noises()[0])
    mask = jnp.zeros(SHAPE[1:3]).at[:2].set(1.0)[None, :, :, None]

    def denoise(x: jax.Array, times: jax.Array) -> jax.Array:
        return jnp.tanh(x)

    out = run(steps, denoise, start(steps, noise), keys=picture_keys(0, jnp.arange(2)), known=(picture, noise, mask))
    np.testing.assert_allclose(out[:, 2:], 0.3, atol=1e-6)
    assert np.abs(out[:, :2] - 0.3).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dpm", Schedule(), 20), "sampler 'dpm' is unknown; did you mean"),
        (("ddim", Schedule(), 1001), "1001 steps"),
        (("lcm", Schedule(), 51), "51 steps"),
        (("flow", Schedule(), 20), "does not solve"),
        (("ddim", Schedule(), 20, None, 0.01), "none at all"),
        (("pndm", Schedule("linear", prediction="x0"), 20), "epsilon or v"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(*arguments)


def test_a_schedule_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="'cosin' is unknown; did you mean 'cosine'"):
        Schedule("cosin")
