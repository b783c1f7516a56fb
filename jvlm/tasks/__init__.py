"""Every training objective, by the name that a configuration's `task.name` uses."""

from collections.abc import Callable

from jvlm.tasks.autoencoding import Autoencoding, CodebookAutoencoding
from jvlm.tasks.base import Shaped, Task
from jvlm.tasks.blip2 import Blip2Stage1
from jvlm.tasks.contrastive import Contrastive
from jvlm.tasks.diffusion import Diffusion
from jvlm.tasks.language import Language

TASKS: dict[str, Callable[..., Task]] = {
    "autoencoder": Autoencoding,
    "blip2-stage1": Blip2Stage1,
    "codebook-autoencoder": CodebookAutoencoding,
    "language": Language,
    "latent-diffusion": Diffusion,
    "contrastive": lambda model, kind="softmax", use_labels=False, **options: Contrastive(
        model, kind, use_labels, options
    ),
}

__all__ = ["TASKS", "Language", "Shaped", "Task"]
