"""How a run ended, for people and scripts: `status.json`, and the notice that asks it to stop."""

import json
import signal
import threading
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from jvlm.core.files import write_json

STATUS_FILE = "status.json"


class Status:
    """`status.json` of a workdir: `running`, `finished`, `preempted` or `failed`, with the step and the reason."""

    def __init__(self, workdir: epath.Path) -> None:
        self._path = workdir / STATUS_FILE

    def write(self, status: str, step: int, reason: str = "") -> dict[str, Any]:
        """Replaces the file (process 0 only) and returns what it holds."""
        value = dict(status=status, step=step, reason=reason)
        if jax.process_index() == 0:
            write_json(self._path, value)
        return value

    def read(self) -> dict[str, Any] | None:
        """What a former run left, or None."""
        return json.loads(self._path.read_text()) if self._path.exists() else None


class StopNotice:
    """Remembers SIGTERM (a preemption notice) and SIGINT instead of dying of them; a context manager.

    A second SIGINT interrupts at once. Outside the main thread signals stay as they are. In a run of several processes
    jax's coordination service takes SIGTERM and tells all of them the step to stop after.
    """

    def __init__(self) -> None:
        self.reason = ""
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopNotice":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def asks(self, step: int) -> bool:
        """Whether to stop after `step`; every process of a run asks after every step."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.reason = signal.Signals.SIGTERM.name
        return bool(self.reason)

    def _notice(self, number: int, _: Any) -> None:
        if self.reason and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
