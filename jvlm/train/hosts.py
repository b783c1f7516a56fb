"""What the processes of a run tell each other: that they are alike, how far they are, and how to end together.

Everything goes through the key-value store of jax's coordination service, which answers when a collective hangs. With
one process there is nothing to tell.
"""

import hashlib
import importlib.metadata
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the store has no public name

from jvlm.core.errors import UserError

VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
MEETING_MS = 300_000
PARTING_MS = 5_000
FACTS, STEPS = "jvlm/facts/", "jvlm/steps/"


def check_alike(facts: Mapping[str, Any]) -> None:
    """UserError that names the process whose `facts` (JSON values by name) differ from those of the others.

    All processes of the run call this, and all of them raise or none.
    """
    client = _store()
    if client is None:
        return
    digests = {name: _digest(json.dumps(value, sort_keys=True, default=str)) for name, value in facts.items()}
    mine = json.dumps({"host": socket.gethostname(), "facts": digests})
    client.key_value_set(f"{FACTS}{jax.process_index()}", mine, allow_overwrite=True)
    client.wait_at_barrier("jvlm_facts", MEETING_MS)
    told = {index: json.loads(value) for index, value in _read(FACTS).items()}
    if line := difference(told):
        raise UserError(line)


def compile_together(step: Any, number: int, *args: Any) -> Any:
    """The jitted `step`, compiled for `args` on every process before any of them runs it; the run's program `number`.

    Compilation takes one process longer than another, and gloo waits 30 s for the others at its first collective.
    """
    client = _store()
    if client is None:
        return step
    program = step.lower(*args).compile()
    client.wait_at_barrier(f"jvlm_compiled{number}", MEETING_MS)
    return program


def difference(told: Mapping[int, Mapping[str, Any]]) -> str | None:
    """One line about the first fact in which processes differ: who has another one than most, or than process 0."""
    for name in told[0]["facts"]:
        values = {index: one["facts"][name] for index, one in sorted(told.items())}
        common = Counter(values.values()).most_common(1)[0][0]
        odd = {index: value for index, value in values.items() if value != common}
        if odd:
            index, value = next(iter(odd.items()))
            more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
            return (
                f"process {index} on {told[index]['host']}{more} has another {name} ({value}) than the others "
                f"({common}); give every host the same and start again"
            )
    return None


def code_digest() -> str:
    """Of this library's source files and of the versions that a step depends on."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(root.rglob("*.py"))
    sources = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return _digest("\n".join([*sources, *(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)]))


class Watch:
    """Ends this process when the run has made no step for `seconds`, and says how far every process is.

    A context manager. It counts from the first `beat` on, since compiling takes as long as it takes, and not while
    `paused`. A hung collective cannot be interrupted, so the process leaves without clearing up; checkpoints are
    complete or ignored.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: tuple[int, float] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        if _store() is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._last is not None:
            with suppress(Exception):  # the coordinator may be gone, and what ended the run is said elsewhere
                tell(self._last[0])

    def beat(self, step: int) -> None:
        """The results of `step` are there."""
        first, self._last = self._last is None, (step, time.monotonic())
        if first:
            tell(step)  # not left to the thread, before whose round the run may end

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While something runs that takes its time: an evaluation, a checkpoint."""
        last, self._last = self._last, None
        yield
        if last is not None:
            self.beat(last[0])

    def _run(self) -> None:
        while not self._over.wait(min(2.0, self._seconds / 4)):
            last = self._last
            if last is None:
                continue
            tell(last[0])
            if time.monotonic() - last[1] > self._seconds:
                leave(f"no step for {self._seconds:g} s, a collective hangs")


def tell(step: int) -> None:
    """Lets the other processes know how far this one is."""
    client = _store()
    if client is not None:
        client.key_value_set(f"{STEPS}{jax.process_index()}", str(step), allow_overwrite=True)


def leave(reason: str) -> NoReturn:
    """Says why and how far every process is, and ends this one at once with status 1.

    At a regular exit jax would wait for the others, one of which may be gone.
    """
    try:
        steps = ", ".join(f"process {index} at {step}" for index, step in sorted(_read(STEPS).items()))
    except Exception as error:  # the coordinator itself is gone
        steps = f"not known ({type(error).__name__})"
    print(f"jvlm: error: {reason}; last steps: {steps or 'none'}", file=sys.stderr, flush=True)
    client = _store()
    try:
        if client is not None:
            client.wait_at_barrier("jvlm_leave", PARTING_MS)  # so that nobody's message is cut off
    except Exception as error:
        print(f"jvlm: not all processes have come to the end ({type(error).__name__})", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def _store() -> Any:
    return distributed.global_state.client if jax.process_count() > 1 else None


def _read(folder: str) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in _store().key_value_dir_get(folder)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
