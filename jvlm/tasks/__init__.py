"""Every training objective, by the name that a configuration's `task.name` uses."""

from collections.abc import Callable

from jvlm.tasks.base import Task
from jvlm.tasks.contrastive import Contrastive

TASKS: dict[str, Callable[..., Task]] = {
    "contrastive": lambda model, kind="softmax", use_labels=False, **options: Contrastive(
        model, kind, use_labels, options
    ),
}

__all__ = ["TASKS", "Task"]
