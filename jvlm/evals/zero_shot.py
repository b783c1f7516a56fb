"""Zero-shot classification: a class is the mean of its texts' embeddings over prompt templates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from jvlm.core.build import lookup
from jvlm.core.errors import ConfigError, UserError
from jvlm.evals.blocks import ranks
from jvlm.evals.encoder import Encoder
from jvlm.evals.metrics import Score, beside_blind, class_scores, shuffled
from jvlm.evals.samples import Data, open_data, read_samples

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    # arXiv:2103.00020, section 3.1.4
    "simple": ("a photo of a {}.",),
    # The seven that its authors found to do as well as all eighty on ImageNet (their prompt engineering notebook).
    "openai_7": (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    ),
}


def templates_of(given: str | Sequence[str]) -> tuple[str, ...]:
    """A set by name, or one's own templates, each with `{}` where the class goes. ConfigError for anything else."""
    if isinstance(given, str) and "{}" not in given:
        return lookup(TEMPLATES, given, "template set")
    own = (given,) if isinstance(given, str) else tuple(given)
    if len(own) == 1 and "{}" not in own[0]:
        return lookup(TEMPLATES, own[0], "template set")
    for template in own:
        if "{}" not in template:
            raise ConfigError(f"template {template!r} has no {{}} where the class goes")
    if not own:
        raise ConfigError("no templates; give a set by name or a text with {}")
    return own


def class_embeddings(
    encoder: Encoder, classes: Sequence[str], templates: str | Sequence[str]
) -> Float32[np.ndarray, "c E"]:
    """Per class: the mean over templates of unit text embeddings, of unit norm again (arXiv:2103.00020, 3.1.4)."""
    chosen = templates_of(templates)
    texts = [template.replace("{}", name) for name in classes for template in chosen]
    z = encoder.texts(texts).reshape(len(classes), len(chosen), -1).mean(axis=1)
    return (z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class ZeroShot:
    """Top-1, top-5 and mean per-class accuracy over `classes`, named in the order of the data's integer labels.

    `classes` None takes those that the data has itself (`class_folder`), or else each label's first caption, over the
    labels that occur.
    """

    data: Data
    classes: Sequence[str] | None = None
    templates: str | Sequence[str] = "openai_7"
    keys: Sequence[str] | None = None

    def __call__(self, encoder: Encoder) -> dict[str, Score]:
        source = open_data(self.data)
        samples = read_samples(source, self.keys)
        names = list(self.classes if self.classes is not None else getattr(source, "classes", ()))
        known = np.arange(len(names))
        if not names:
            first = dict(zip(samples.labels.tolist(), samples.captions))
            known = np.asarray(sorted(first), np.int64)
            names = [first[label][0] if first[label] else str(label) for label in known.tolist()]
        if len(outside := np.setdiff1d(samples.labels, known)):
            raise UserError(f"zero-shot: label {outside[0]} has no class; {len(names)} are named")
        zcls = class_embeddings(encoder, names, self.templates)
        zimg = encoder.images(samples.pictures)

        def score(zimg: np.ndarray) -> dict[str, Score]:
            found = ranks(zimg, zcls, samples.labels, known, encoder.mesh)
            return class_scores(found, samples.labels, len(known))

        return beside_blind(score(zimg), score(zimg[shuffled(len(zimg))]))
