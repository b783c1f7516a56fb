"""The models inside a text-to-image pipeline, each by itself, by the names of diffusers' folders."""

from collections.abc import Mapping
from dataclasses import replace

from jvlm.data.processor import Processor
from jvlm.interop.hf import clip_text
from jvlm.interop.pretrained import Pretrained

FAMILY = "latent-diffusion"
FOLDERS = {
    "unet": ("unet", "unet"),
    "text_encoder": ("text", "clip-text"),
    "text_encoder_2": ("text_2", "clip-text"),
    "vae": ("vae", "autoencoder"),
}
"""diffusers' folder of each part: our name of it, its family."""


def parts(whole: Pretrained) -> dict[str, Pretrained]:
    """The parts that a pipeline has, by folder. Their adapters and what was trained beside them stay on them."""
    out: dict[str, Pretrained] = {}
    for folder, (ours, family) in FOLDERS.items():
        model = getattr(whole.model, ours)
        if model is None:
            continue
        published = whole.published.get(ours) or {}
        if not published and family == "clip-text":
            published = clip_text.config(model)  # which of its two classes it is
        trained = tuple(path.removeprefix(f"{ours}/") for path in whole.trained if path.startswith(f"{ours}/"))
        config = {**dict(whole.config.get(ours) or {}), "family": family}
        out[folder] = Pretrained(model, whole.params[ours], {}, config, Processor(), dict(published), trained=trained)
    return out


def joined(whole: Pretrained, changed: Mapping[str, Pretrained]) -> Pretrained:
    """`whole` with the parameters of the parts `changed`, by folder."""
    names = {FOLDERS[folder][0]: part for folder, part in changed.items()}
    params = {**whole.params, **{ours: part.params for ours, part in names.items()}}
    kept = [path for path in whole.trained if path.partition("/")[0] not in names]
    own = [f"{ours}/{path}" for ours, part in names.items() for path in part.trained]
    return replace(whole, params=params, trained=(*kept, *own))
