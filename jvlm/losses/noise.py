"""Diffusion processes: how much signal and how much noise there is at each time, and what a model is to predict.

A noised picture is `alpha * x + sigma * noise`. Times are indices 0 .. length - 1, least noise first.
"""

import itertools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jvlm.core.errors import ConfigError, nearest

KINDS = ("linear", "scaled_linear", "cosine", "flow")
PREDICTIONS = ("epsilon", "v", "x0", "flow")


@dataclass(frozen=True)
class Schedule:
    """A process of `length` times.

    `kind`: betas `linear` from `beta_start` to `beta_end` (Ho et al., arXiv:2006.11239, section 4), their roots linear
    (`scaled_linear`; arXiv:2112.10752), a signal that falls as a `cosine` (arXiv:2102.09672, eq. 17), or rectified
    `flow`, on which x becomes noise along a line (arXiv:2209.03003), its times shifted by `shift` (arXiv:2403.03206,
    eq. 23). `prediction` is one of `epsilon`, `v` (arXiv:2202.00512, appendix D), `x0` and `flow` (noise - x).
    `zero_terminal_snr` rescales so that nothing but noise is left at the end (arXiv:2305.08891, algorithm 1).
    """

    kind: str = "scaled_linear"
    length: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"noise schedule {self.kind!r} is unknown; {nearest(self.kind, KINDS)}")
        if self.prediction not in PREDICTIONS:
            raise ConfigError(f"prediction {self.prediction!r} is unknown; {nearest(self.prediction, PREDICTIONS)}")
        if (self.kind == "flow") != (self.prediction == "flow"):
            raise ConfigError(f"a schedule {self.kind!r} does not go with the prediction {self.prediction!r}")

    def survival(self) -> np.ndarray:
        """The product of 1 - beta up to each time, [length] in float32: the share of the signal's variance.

        Computed in float32, as published models were trained with it. Not for `flow`.
        """
        product = np.cumprod(1 - self._betas(), dtype=np.float32)
        if not self.zero_terminal_snr:
            return product
        root = np.sqrt(product)
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        square = np.square(root, dtype=np.float32)
        betas = 1 - np.concatenate([square[:1], square[1:] / square[:-1]])
        return np.cumprod(1 - betas, dtype=np.float32)

    def _betas(self) -> np.ndarray:
        if self.kind == "linear":
            return np.linspace(self.beta_start, self.beta_end, self.length, dtype=np.float32)
        if self.kind == "scaled_linear":
            return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.length, dtype=np.float32) ** 2
        ends = [math.cos((t / self.length + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(self.length + 1)]
        return np.asarray([min(1 - b / a, 0.999) for a, b in itertools.pairwise(ends)], np.float32)

    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """(alpha, sigma) of every time, each [length] in float32."""
        if self.kind == "flow":
            sigma = shifted(np.arange(1, self.length + 1, dtype=np.float32) / self.length, self.shift)
            return (1 - sigma).astype(np.float32), sigma.astype(np.float32)
        product = self.survival()
        return np.sqrt(product), np.sqrt(1 - product)


def shifted(sigma: np.ndarray, shift: float) -> np.ndarray:
    """Noise levels of a flow moved towards noise by a factor `shift` of their odds (arXiv:2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def at(levels: np.ndarray, times: jax.Array, ndim: int) -> jax.Array:
    """`levels` [length] at integer `times` [B], as [B, 1, ...] of `ndim` axes."""
    return jnp.asarray(levels)[times].reshape(-1, *(1,) * (ndim - 1))


def noised(
    x: Float[Array, "B *C"], noise: Float[Array, "B *C"], alpha: Float[Array, "B *_"], sigma: Float[Array, "B *_"]
) -> Float[Array, "B *C"]:
    """`alpha * x + sigma * noise`."""
    return alpha * x + sigma * noise


def target(
    prediction: str,
    x: Float[Array, "B *C"],
    noise: Float[Array, "B *C"],
    alpha: Float[Array, "B *_"],
    sigma: Float[Array, "B *_"],
) -> Float[Array, "B *C"]:
    """What the model is to return for `noised(x, noise, alpha, sigma)`, by a key of `PREDICTIONS`."""
    return {
        "epsilon": lambda: noise,
        "v": lambda: alpha * noise - sigma * x,
        "x0": lambda: x,
        "flow": lambda: noise - x,
    }[prediction]()


def min_snr_weight(
    prediction: str, alpha: Float[Array, "*B"], sigma: Float[Array, "*B"], gamma: float
) -> Float[Array, "*B"]:
    """Weight of a squared error so that in terms of x it is min(SNR, gamma) (Hang et al., arXiv:2303.09556, eq. 8).

    Finite where nothing but noise is left. Not for `flow`.
    """
    snr = jnp.square(alpha) / jnp.square(sigma)
    clipped = jnp.minimum(snr, gamma)
    if prediction == "epsilon":
        return jnp.where(snr > 0, clipped / jnp.maximum(snr, 1e-20), 1.0)
    return clipped / (snr + 1) if prediction == "v" else clipped
