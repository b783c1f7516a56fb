"""Optimizers from a configuration: a direction, decay, per-pattern rates, a schedule."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from optax import contrib

from jvlm.core import build
from jvlm.core.errors import ConfigError
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_arrays, map_paths, matcher, select
from jvlm.core.types import Params

Pairs = Sequence[Sequence[Any]]
"""(pattern, factor) pairs."""


def schedule(lr: float, steps: int, *, name: str = "cosine", warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Learning rate by step: linear `warmup` from 0, then `cosine`, `linear`, `rsqrt` or `constant` to `end * lr`."""
    if lr < 0 or warmup < 0:
        raise ConfigError(f"the learning rate is {lr:g} and its warmup {warmup} steps; neither may be negative")
    rest = max(1, steps - warmup)
    shapes: dict[str, Callable[[], optax.Schedule]] = {
        "cosine": lambda: optax.cosine_decay_schedule(lr, rest, alpha=end),
        "linear": lambda: optax.linear_schedule(lr, end * lr, rest),
        "rsqrt": lambda: lambda count: lr * (max(warmup, 1) / (count + max(warmup, 1))) ** 0.5,
        "constant": lambda: optax.constant_schedule(lr),
    }
    body = build.lookup(shapes, name, "schedule")()
    if warmup == 0:
        return body
    return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup), body], [warmup])


def _is_matrix(path: str, leaf: Any) -> bool:
    """Whether a leaf is a kernel of a product, judged without its layer axis. The factors of an adapter are not."""
    if isinstance(leaf, Leaf):
        return False
    return path.endswith("/kernel") and leaf.ndim - path.count("/layers/") == 2


def _adam(params: Params, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1, b2, eps)


def _lion(params: Params, b1: float = 0.9, b2: float = 0.99) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1, b2)


def _sgd(params: Params, momentum: float = 0.9, nesterov: bool = False) -> optax.GradientTransformation:
    return optax.trace(momentum, nesterov)


def _adafactor(params: Params, decay: float = 0.8, clip: float = 1.0, b1: float | None = 0.9) -> Any:
    """Adafactor's factored second moment with the update clipping of arXiv:1804.04235, as big_vision uses it."""
    parts = [optax.scale_by_factored_rms(decay_rate=decay), optax.clip_by_block_rms(clip)]
    return optax.chain(*parts, optax.ema(b1, debias=False)) if b1 else optax.chain(*parts)


def _muon(
    params: Params,
    adam_ratio: float = 0.1,
    momentum: float = 0.95,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """Muon on 2-D kernels (stacked ones layer by layer), Adam at `adam_ratio` times the rate on the rest."""

    def dimensions(tree: Any) -> Any:
        return jax.tree.map(lambda x: contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), tree)

    def widen(updates: Any, _: Any) -> Any:
        # Keeps the size of the output's change independent of a kernel's shape (arXiv:2310.17813).
        return jax.tree.map(lambda u: u * max(1.0, u.shape[-1] / u.shape[-2]) ** 0.5, updates)

    def name(path: str, leaf: Any) -> str | None:
        return None if leaf is None else "muon" if _is_matrix(path, leaf) else "adam"

    return optax.multi_transform(
        {
            "muon": optax.chain(
                contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=dimensions),
                optax.stateless(widen),
            ),
            "adam": optax.chain(optax.scale_by_adam(b1, b2, eps), optax.scale(adam_ratio)),
        },
        map_paths(name, params),
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adam,
    "lion": _lion,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "muon": _muon,
}
"""Direction of each optimizer, before decay and rate: `(params, **options)`."""


def make_optimizer(
    config: Mapping[str, Any], params: Params, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a configuration for abstract or real `params` (None where frozen), and its schedule.

    Fields: `name`, `lr`, `schedule` (fields of `schedule`), `weight_decay` (on parameters of two and more axes),
    `decay_mult` and `lr_mult` (lists of (pattern, factor), first match wins), `clip_norm`, and the rest goes to the
    optimizer. ConfigError for an unknown field and for a pattern that matches nothing.
    """
    fields = dict(config)
    direction = build.lookup(OPTIMIZERS, fields.pop("name", "adamw"), "optimizer")
    rate = schedule_from(fields.pop("lr", None), fields.pop("schedule", {}), steps)
    decay = fields.pop("weight_decay", 0.0)
    decay_mult: Pairs = fields.pop("decay_mult", ())
    lr_mult: Pairs = fields.pop("lr_mult", ())
    clip_norm = fields.pop("clip_norm", None)
    parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    parts.append(build.call(direction, {"params": params, **fields}, "optimizer"))
    if decay:
        parts.append(_decay(params, decay, decay_mult))
    if lr_mult:
        parts.append(_scale_by(_multipliers(params, lr_mult)))
    parts.append(optax.scale_by_learning_rate(rate))
    return optax.chain(*parts), rate


def schedule_from(lr: float | None, fields: Mapping[str, Any], steps: int) -> optax.Schedule:
    """`schedule` with a ConfigError for a missing rate or an unknown field."""
    if lr is None:
        raise ConfigError("the optimizer needs the field 'lr'")
    return build.call(schedule, {"lr": lr, "steps": steps, **fields}, "schedule")


def _multipliers(params: Params, pairs: Pairs) -> Params:
    """The factor of the first pattern that matches an array's path or, in a weight leaf, the leaf's.

    A pattern may name what is frozen, so that a configuration holds for an adapter of its model, too.
    """
    rules = [(matcher(str(pattern)), float(factor)) for pattern, factor in pairs]
    known = list(flatten(params))
    map_arrays(lambda path, array: known.append(path), params)
    for pattern, _ in pairs:
        select(known, [str(pattern)])

    def factor(path: str, _: Any) -> float:
        # An array of a leaf lies one or more names below the leaf's own path.
        parts = path.split("/")
        names = ["/".join(parts[:depth]) for depth in range(len(parts), 0, -1)]
        return next((factor for match, factor in rules if any(map(match, names))), 1.0)

    return map_arrays(factor, params)


def _scale_by(factors: Params) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors))


def _decay(params: Params, rate: float, pairs: Pairs) -> optax.GradientTransformation:
    factors: Any = _multipliers(params, pairs)
    matrices = map_arrays(lambda path, array: float(array.ndim - path.count("/layers/") >= 2), params)
    rates = jax.tree.map(lambda factor, matrix: rate * factor * matrix, factors, matrices)
    return optax.stateless(lambda updates, p: jax.tree.map(lambda u, w, r: u + r * w, updates, p, rates))
