"""Latents cached in shards: a source's pictures as an autoencoder sees them, computed once before a training."""

import io
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import ImageOps

from jvlm.core.errors import UserError
from jvlm.data.buckets import Buckets, Size, nearest
from jvlm.data.image_ops import picture_size, read_picture, told_sizes
from jvlm.data.image_spec import HALF, ImageSpec
from jvlm.data.processor import Processor
from jvlm.data.sizes import measure_sizes
from jvlm.data.sources import BadSample, Sample, Source, Subset, digest
from jvlm.evals.encoder import Encoder
from jvlm.interop.pretrained import Pretrained
from jvlm.models.autoencoder import Autoencoder
from jvlm.models.latent_diffusion import LatentDiffusion

CAUSE = "unreadable picture"


class LatentSource:
    """`source` with a `.npy` file [h, w, 2 Z] for each picture: mean, then log variance, not scaled.

    What `Diffusion(cached=True)` trains on once it is packed. With `mirror` the mirror images follow as samples of
    their own. Pictures are fitted to the autoencoder's size as its directory says, else scaled and cropped in the
    middle; `extra["sizes"]` tells (height, width) as they came, the corner of the crop, and the size they have now.
    With `size` (height, width) they are scaled to cover that and cropped, whatever the directory says. `window` are
    encoded at a time, so samples are to be read in order. UserError for a model that is no autoencoder.
    """

    def __init__(
        self,
        source: Source,
        pretrained: Pretrained,
        mirror: bool = False,
        mesh: Mesh | None = None,
        window: int = 256,
        size: Size | None = None,
    ) -> None:
        model, params = encoder_of(pretrained)
        # A diffusers directory does not say: as Stable Diffusion was trained.
        self._spec = pretrained.processor.image or ImageSpec.clip(model.image_size, mean=HALF, std=HALF)
        if size is not None:
            self._spec = self._spec.covering(size)
        height, width = (side // model.factor for side in self._spec.size)
        self.shape = (height, width, 2 * model.latent_channels)
        self._source, self._mirror, self._window = source, mirror, window
        self._first, self._encoded = -1, np.zeros((0, *self.shape), np.float32)
        self._sizes = np.zeros((window, 6), int)
        self._bad: dict[int, str] = {}

        def moments(variables: Any, image: jax.Array) -> jax.Array:
            latents: Any = model.apply(variables, image, method="encode")
            both = jax.numpy.concatenate([latents.mean, latents.log_variance], axis=-1)
            return both.reshape(both.shape[0], -1)

        self._encoder = Encoder({"image": moments}, {"params": params}, Processor(self._spec), mesh)
        self.sample_bytes = 4 * int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._source) * (1 + self._mirror)

    def __getitem__(self, index: int) -> Sample:
        """The sample; BadSample when its picture cannot be read."""
        first = index - index % self._window
        if first != self._first:
            self._encode(first)
        if index in self._bad:
            raise BadSample(self._bad[index], CAUSE)
        sample = self._source[index % len(self._source)]
        mirrored = index >= len(self._source)
        buffer = io.BytesIO()
        np.save(buffer, self._encoded[index - first])
        told = dict(mirrored=mirrored, sizes=self._sizes[index - first].tolist())
        return sample._replace(image=buffer.getvalue(), extra={**sample.extra, **told})

    def _encode(self, first: int) -> None:
        self._bad = {}
        found = list(self._pictures(first))
        failures: dict[int, str] = {}
        flat = self._encoder.images([picture for _, picture in found], failures)
        self._bad |= {found[at][0]: reason for at, reason in failures.items()}
        self._encoded = np.zeros((self._window, *self.shape), np.float32)
        self._encoded[[index - first for index, _ in found]] = flat.reshape(-1, *self.shape)
        self._first = first

    def _pictures(self, first: int) -> Iterator[tuple[int, Any]]:
        for index in range(first, min(first + self._window, len(self))):
            try:
                image = self._source[index % len(self._source)].image
                self._sizes[index - first] = told_sizes(picture_size(image), self._spec)
                if index >= len(self._source):
                    image = ImageOps.mirror(read_picture(image))
                yield index, image
            except UserError as error:
                self._bad[index] = str(error)

    def fingerprint(self) -> str:
        """Changes with the pictures and with what is made of them, not with the autoencoder's weights."""
        return digest("latents", self._source.fingerprint(), self.shape, self._mirror)


def bucketed(
    source: Source, pretrained: Pretrained, buckets: Buckets, mirror: bool = False, mesh: Mesh | None = None
) -> Iterator[tuple[str, Source]]:
    """The latents of `source`, those of each of `buckets` as a source of their own after a name for its shards.

    A picture goes to the bucket of the nearest aspect ratio. The headers of all are read first; those whose header
    cannot be read come with the first bucket, as bad samples. UserError as `LatentSource`.
    """
    model, _ = encoder_of(pretrained)
    sizes = buckets.check(getattr(pretrained.model, "multiple", model.factor)).sizes()
    which = np.maximum(nearest(sizes, measure_sizes(source, latents=False).values), 0)
    members = [np.flatnonzero(which == number) for number in range(len(sizes))]
    return (
        (f"{size[0]}x{size[1]}-", LatentSource(Subset(source, inside), pretrained, mirror, mesh, size=size))
        for size, inside in zip(sizes, members)
        if len(inside)
    )


def encoder_of(pretrained: Pretrained) -> tuple[Autoencoder, Any]:
    """The autoencoder that `pretrained` is or has, and its parameters. UserError where there is none."""
    model, params = pretrained.model, pretrained.params
    if isinstance(model, LatentDiffusion):
        model, params = model.vae, params["vae"]
    if not isinstance(model, Autoencoder):
        raise UserError(f"a {type(model).__name__} makes no latents; give an autoencoder's workdir or directory")
    return model, params
