"""A text-to-image model as an evaluation asks for it: pictures of texts, and another model that judges them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.sharding import PRESETS, Rules, batch_sharding, batch_shards, make_mesh, use
from jvlm.data.processor import Processor
from jvlm.evals.encoder import Encoder
from jvlm.evals.placement import place
from jvlm.generate import samplers
from jvlm.generate.diffusion import initial_noise, picture_keys
from jvlm.generate.painting import Wish, noise_shape, paint
from jvlm.generate.steps import Settings, put
from jvlm.losses.noise import Schedule
from jvlm.models.latent_diffusion import LatentDiffusion


@dataclass(frozen=True, kw_only=True)
class How:
    """How pictures are painted: a sampler's name, its `steps` and their `spacing`, `guidance`, the noise's `seed`.

    An evaluation of painted pictures is one, with fields of its own; `how` is what it shares with the others.
    """

    steps: int = 25
    sampler: str = "ddim"
    spacing: str = "trailing"
    guidance: float = 3.0
    seed: int = 0

    @property
    def how(self) -> "How":
        return How(**{field.name: getattr(self, field.name) for field in fields(How)})


class Painter:
    """Paints any number of texts with a `LatentDiffusion`, `batch_size` at once over the batch axes of `mesh`.

    `load` turns a directory into an `Encoder` of pictures, kept as `tower`. The same texts painted twice are painted
    once.
    """

    def __init__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        processor: Processor,
        load: Callable[[str], Encoder],
        mesh: Mesh | None = None,
        *,
        rules: Rules = PRESETS["dp"],
        batch_size: int = 64,
    ) -> None:
        if not isinstance(model, LatentDiffusion):
            raise UserError(f"a {type(model).__name__} paints nothing; give a whole text-to-image model")
        if processor.tokenizer is None:
            raise UserError("the text-to-image model has no tokenizer; copy it there from the model's source")
        self.model, self.processor, self.tower = model, processor, load
        self.mesh = mesh if mesh is not None else make_mesh({"data": 1}, jax.devices()[:1])
        self._params = place(variables["params"], self.mesh)
        self._rules, self._batch_size = rules, batch_size
        self._painted: dict[tuple[How, tuple[str, ...]], np.ndarray] = {}

    def judge(self, directory: str) -> Encoder:
        """The dual encoder in `directory`. UserError where it embeds no texts."""
        judge = self.tower(directory)
        if judge.processor.tokenizer is None:
            raise UserError(f"{directory}: a judge of pictures and texts is a dual encoder; give a CLIP")
        return judge

    def paint(self, texts: Sequence[str], how: How) -> UInt8[np.ndarray, "n H W 3"]:
        """A picture of each text; picture i has the noise of seed and i, whatever the batches and devices."""
        key = how, tuple(texts)
        if key not in self._painted:
            self._painted[key] = self._paint(key[1], how)
        return self._painted[key]

    def _paint(self, texts: tuple[str, ...], how: How) -> np.ndarray:
        if not texts:
            raise ConfigError("nothing to paint: no texts")
        model, shards = self.model, batch_shards(self.mesh)
        schedule = Schedule(**dict(model.schedule))
        plan = put(samplers.plan(how.sampler, schedule, how.steps, Settings(spacing=how.spacing)))
        shape = noise_shape(model, (model.size, model.size))
        rows = -(-min(self._batch_size, len(texts)) // shards) * shards
        out = []
        for first in range(0, len(texts), rows):
            # The last batch is filled up, so that all have one compiled program.
            part = [texts[min(at, len(texts) - 1)] for at in range(first, first + rows)]
            indices = jnp.arange(first, first + rows)
            wish = Wish(
                tokens=self.processor.texts(part),
                noise=initial_noise(how.seed, indices, shape),
                negative=None if model.zero_negative else self.processor.texts([""] * rows),
                keys=picture_keys(how.seed, indices),
            )
            with use(self.mesh, self._rules):
                wish = jax.device_put(wish, batch_sharding(self.mesh))
                out.append(paint(model, self._params, wish, plan, guidance=how.guidance))
        return np.concatenate(out)[: len(texts)]
