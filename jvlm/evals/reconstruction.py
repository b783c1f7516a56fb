"""How well an autoencoder gives pictures back: PSNR and SSIM."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jvlm.core.errors import UserError
from jvlm.evals.encoder import Encoder
from jvlm.evals.metrics import Score, cluster_bootstrap, shuffled
from jvlm.evals.samples import Data, evenly, read_samples

Images = Float[np.ndarray, "n H W C"]
RADIUS, SIGMA = 5, 1.5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Reconstruction:
    """Mean `psnr` in dB and mean `ssim` of pictures decoded again, at the autoencoder's size.

    `chance` is what the mean picture of the data scores, `blind` what other pictures' reconstructions do.
    """

    data: Data
    keys: Sequence[str] | None = None
    limit: int | None = None

    subject: ClassVar[str] = "reconstructor"

    def __call__(self, encoder: Encoder) -> dict[str, Score]:
        samples = read_samples(self.data, self.keys)
        samples = samples.take(evenly(len(samples), self.limit or len(samples)))
        if not len(samples):
            raise UserError("reconstruction: the data has no samples")
        image, again = (to_unit(x) for x in encoder.reconstructions(samples.pictures))
        blind = again[shuffled(len(again))]
        mean = np.broadcast_to(image.mean(0), image.shape)
        out = {}
        for name, measure in (("psnr", psnr), ("ssim", ssim)):
            values = measure(image, again)
            low, high = cluster_bootstrap(values, np.arange(len(values)))
            chance, other = (float(measure(image, x).mean()) for x in (mean, blind))
            out[name] = Score(float(values.mean()), low, high, chance, other, len(values))
        return out


def to_unit(image: np.ndarray) -> np.ndarray:
    """Pictures in -1..1 as 0..1 in float64, bounded."""
    return np.clip(image.astype(np.float64) / 2 + 0.5, 0.0, 1.0)


def psnr(a: Images, b: Images) -> Float[np.ndarray, "n"]:
    """Peak signal to noise ratio of pictures in 0..1: -10 log10 of the mean squared error, at most 100 dB."""
    error = np.square(a - b).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, 1e-10))


def ssim(a: Images, b: Images) -> Float[np.ndarray, "n"]:
    """Structural similarity of pictures in 0..1, the mean over channels and all whole windows.

    Wang et al., IEEE TIP 13 (2004), eq. 13 and section III.C: Gaussian windows of 11 x 11, deviation 1.5.
    """
    if min(a.shape[1:3]) < 2 * RADIUS + 1:
        raise UserError(f"SSIM needs pictures of {2 * RADIUS + 1} pixels or more, these are {a.shape[1]}x{a.shape[2]}")
    ma, mb = blurred(a), blurred(b)
    va, vb, both = blurred(a * a) - ma * ma, blurred(b * b) - mb * mb, blurred(a * b) - ma * mb
    c1, c2 = K1**2, K2**2
    map = (2 * ma * mb + c1) * (2 * both + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return map.mean(axis=(1, 2, 3))


def blurred(image: Images) -> Float[np.ndarray, "n h w C"]:
    """Gaussian means over whole windows: `RADIUS` pixels less on every side."""
    weights = np.asarray([math.exp(-(at**2) / (2 * SIGMA**2)) for at in range(-RADIUS, RADIUS + 1)])
    weights /= weights.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(image, len(weights), axis=axis)
        image = windows @ weights
    return image
