"""diffusers' scheduler files: the noise schedule, the sampler and its settings, by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jvlm.core.errors import ConfigError, UserError, nearest
from jvlm.generate.steps import Settings
from jvlm.interop.diffusers.blocks import known_only
from jvlm.interop.diffusers.unet import VERSION
from jvlm.losses.noise import Schedule

FILE = "scheduler_config.json"
_KINDS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}

# What each class assumes where a file is silent, and takes from the file of another class.
_ALL: dict[str, Any] = dict(
    num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", trained_betas=None,
    prediction_type="epsilon", steps_offset=0,
)  # fmt: skip
_CLIPPED = dict(clip_sample=True, clip_sample_range=1.0, thresholding=False)
_SPACED = dict(_ALL, timestep_spacing="linspace")
_LADDER = dict(_SPACED, use_karras_sigmas=False, use_exponential_sigmas=False, use_beta_sigmas=False)
_SOLVER = dict(
    _LADDER, solver_order=2, thresholding=False, lower_order_final=True, final_sigmas_type="zero",
    use_flow_sigmas=False, rescale_betas_zero_snr=False,
)  # fmt: skip
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIMScheduler": (
        "ddim",
        dict(_ALL, **_CLIPPED, set_alpha_to_one=True, timestep_spacing="leading", rescale_betas_zero_snr=False),
    ),
    "DDPMScheduler": (
        "ddpm",
        dict(_ALL, **_CLIPPED, variance_type="fixed_small", timestep_spacing="leading", rescale_betas_zero_snr=False),
    ),
    "PNDMScheduler": (
        "pndm",
        dict(_ALL, skip_prk_steps=False, set_alpha_to_one=False, timestep_spacing="leading"),
    ),
    "EulerDiscreteScheduler": (
        "euler",
        dict(
            _LADDER, interpolation_type="linear", timestep_type="discrete", rescale_betas_zero_snr=False,
            final_sigmas_type="zero",
        ),
    ),
    "EulerAncestralDiscreteScheduler": ("euler-ancestral", dict(_SPACED, rescale_betas_zero_snr=False)),
    "HeunDiscreteScheduler": (
        "heun",
        dict(_LADDER, beta_start=0.00085, beta_end=0.012, clip_sample=False, clip_sample_range=1.0),
    ),
    "DPMSolverMultistepScheduler": (
        "dpm++",
        dict(
            _SOLVER, algorithm_type="dpmsolver++", solver_type="midpoint", euler_at_final=False, use_lu_lambdas=False,
            variance_type=None,
        ),
    ),
    "UniPCMultistepScheduler": (
        "unipc",
        dict(_SOLVER, predict_x0=True, solver_type="bh2", disable_corrector=[]),
    ),
    "LCMScheduler": (
        "lcm",
        dict(
            _ALL, **_CLIPPED | dict(clip_sample=False), beta_start=0.00085, beta_end=0.012,
            beta_schedule="scaled_linear", set_alpha_to_one=True, original_inference_steps=50, timestep_scaling=10.0,
            rescale_betas_zero_snr=False,
        ),
    ),
    "FlowMatchEulerDiscreteScheduler": (
        "flow",
        dict(
            num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False, invert_sigmas=False, shift_terminal=None,
            use_karras_sigmas=False, use_exponential_sigmas=False, use_beta_sigmas=False, stochastic_sampling=False,
        ),
    ),
}  # fmt: skip
# What jvlm's samplers do not have, by the values that leave it out.
_ABSENT = dict(
    trained_betas=None, thresholding=False, use_exponential_sigmas=False, use_beta_sigmas=False, use_flow_sigmas=False,
    use_lu_lambdas=False, final_sigmas_type="zero", lower_order_final=True, solver_order=2, predict_x0=True,
    interpolation_type="linear", timestep_type="discrete", use_dynamic_shifting=False, invert_sigmas=False,
    shift_terminal=None, stochastic_sampling=False, disable_corrector=[], euler_at_final=False,
)  # fmt: skip
_BY_SAMPLER = {sampler: name for name, (sampler, _) in CLASSES.items()} | {"dpm++-sde": "DPMSolverMultistepScheduler"}


@dataclass(frozen=True)
class Process:
    """A noise schedule, the sampler that goes with it by default, and its settings."""

    schedule: Schedule
    sampler: str
    settings: Settings


def read(config: Mapping[str, Any], sampler: str | None = None) -> Process:
    """What a scheduler file says; with `sampler` that one, told what the file says of the rest, as `from_config` does.

    Raises UserError for a class or value that jvlm lacks, ConfigError for an unknown sampler.
    """
    name = str(config.get("_class_name"))
    if name not in CLASSES:
        raise UserError(f"{FILE} has the class {name!r}, which is unknown; {nearest(name, CLASSES)}")
    if sampler is not None:
        if sampler not in _BY_SAMPLER:
            raise ConfigError(f"sampler {sampler!r} is unknown; {nearest(sampler, _BY_SAMPLER)}")
        name = _BY_SAMPLER[sampler]
    own, defaults = CLASSES[name]
    c = {key: config.get(key, value) for key, value in defaults.items()}
    if sampler is not None and "algorithm_type" in c:
        c["algorithm_type"] = "sde-dpmsolver++" if sampler.endswith("sde") else "dpmsolver++"
    known_only(c, _ABSENT)
    if own == "flow":
        return Process(Schedule("flow", c["num_train_timesteps"], prediction="flow", shift=c["shift"]), own, Settings())
    return Process(_schedule(c), _sampler(own, c), _settings(c))


def _schedule(c: Mapping[str, Any]) -> Schedule:
    for key, known in (("beta_schedule", _KINDS), ("prediction_type", _PREDICTIONS)):
        if c[key] not in known:
            raise UserError(f"{FILE} has {key} = {c[key]!r}; jvlm implements {', '.join(known)}")
    return Schedule(
        kind=_KINDS[c["beta_schedule"]],
        length=c["num_train_timesteps"],
        beta_start=c["beta_start"],
        beta_end=c["beta_end"],
        prediction=_PREDICTIONS[c["prediction_type"]],
        zero_terminal_snr=bool(c.get("rescale_betas_zero_snr", False)),
    )


def _sampler(own: str, c: Mapping[str, Any]) -> str:
    if own == "ddpm" and c["variance_type"] != "fixed_small":
        raise UserError(f"{FILE} has variance_type = {c['variance_type']!r}; jvlm implements 'fixed_small'")
    if own == "unipc" and c["solver_type"] != "bh2" and c["solver_type"] in ("bh1",):
        raise UserError(f"{FILE} has solver_type = 'bh1'; jvlm implements 'bh2'")
    if own != "dpm++":
        return own
    if c["algorithm_type"] not in ("dpmsolver++", "sde-dpmsolver++"):
        raise UserError(
            f"{FILE} has algorithm_type = {c['algorithm_type']!r}; jvlm implements 'dpmsolver++' and its sde"
        )
    if c["solver_type"] == "heun":
        raise UserError(f"{FILE} has solver_type = 'heun'; jvlm implements 'midpoint'")
    return "dpm++-sde" if c["algorithm_type"].startswith("sde") else "dpm++"


def _settings(c: Mapping[str, Any]) -> Settings:
    return Settings(
        spacing=c.get("timestep_spacing", "leading"),
        offset=c["steps_offset"],
        final_one=c.get("set_alpha_to_one", True),
        clip=c["clip_sample_range"] if c.get("clip_sample") else None,
        karras=bool(c.get("use_karras_sigmas")),
        runge_kutta=not c.get("skip_prk_steps", True),
        original_steps=c.get("original_inference_steps", 50),
        time_scaling=c.get("timestep_scaling", 10.0),
    )


def config(schedule: Schedule) -> dict[str, Any]:
    """A scheduler file for a model trained with `schedule`: DDIM's, or the flow's."""
    if schedule.kind == "flow":
        own = dict(num_train_timesteps=schedule.length, shift=schedule.shift)
        return dict(own, _class_name="FlowMatchEulerDiscreteScheduler", _diffusers_version=VERSION)
    kinds, predictions = ({ours: theirs for theirs, ours in names.items()} for names in (_KINDS, _PREDICTIONS))
    return dict(
        _class_name="DDIMScheduler",
        _diffusers_version=VERSION,
        num_train_timesteps=schedule.length,
        beta_start=schedule.beta_start,
        beta_end=schedule.beta_end,
        beta_schedule=kinds[schedule.kind],
        prediction_type=predictions[schedule.prediction],
        rescale_betas_zero_snr=schedule.zero_terminal_snr,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        skip_prk_steps=True,
    )
