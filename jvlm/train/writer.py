"""Where metrics go: `metrics.jsonl`, the terminal, and TensorBoard or W&B where asked for."""

import importlib
import json
import time
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jvlm.core.build import lookup
from jvlm.core.errors import ConfigError


class MetricsFile:
    """Appends one object a line; a resumed run first drops the lines of steps it is about to repeat."""

    def __init__(self, path: epath.Path, start: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._lines = [line for line in lines if _step_of(line) <= start]
        path.write_text("".join(line + "\n" for line in self._lines))

    def write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(dict(record))
        if "://" in str(self._path):  # an object store cannot append
            self._lines.append(line)
            self._path.write_text("".join(line + "\n" for line in self._lines))
            return
        with self._path.open("a") as file:
            file.write(line + "\n")

    def close(self) -> None:
        """Nothing is held open between writes."""


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line).get("step", 0))
    except json.JSONDecodeError:
        return float("inf")  # cut by a kill while it was written


class TensorBoard:
    """Scalars for TensorBoard, through tensorboardX (the `[tensorboard]` extra)."""

    def __init__(self, path: epath.Path, start: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ConfigError("writers has 'tensorboard': pip install 'jvlm[tensorboard]' first") from None
        self._writer = SummaryWriter(str(path), purge_step=start)

    def write(self, record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            if key != "step" and isinstance(value, int | float):
                self._writer.add_scalar(key, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Scalars for Weights & Biases (the `[wandb]` extra), resumed under the workdir's name."""

    def __init__(self, path: epath.Path, start: int) -> None:
        try:
            wandb = importlib.import_module("wandb")  # an extra that pins another protobuf
        except ImportError:
            raise ConfigError("writers has 'wandb': pip install 'jvlm[wandb]' first") from None
        self._run = wandb.init(project="jvlm", id=path.parent.name, dir=str(path.parent), resume="allow")

    def write(self, record: Mapping[str, Any]) -> None:
        self._run.log({key: value for key, value in record.items() if key != "step"}, step=record["step"])

    def close(self) -> None:
        self._run.finish()


WRITERS = {
    "jsonl": lambda workdir, start: MetricsFile(workdir / "metrics.jsonl", start),
    "tensorboard": lambda workdir, start: TensorBoard(workdir / "tensorboard", start),
    "wandb": lambda workdir, start: WandB(workdir / "wandb", start),
}


class Writers:
    """All writers of a run, on process 0; elsewhere nothing."""

    def __init__(self, names: tuple[str, ...], workdir: epath.Path, start: int) -> None:
        chosen = ("jsonl", *names) if jax.process_index() == 0 else ()
        self._writers = [lookup(WRITERS, name, "writer")(workdir, start) for name in chosen]

    def write(self, record: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write(record)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class Terminal:
    """A progress bar with loss, images/s, step time, data wait and the time left; plain lines off a terminal."""

    def __init__(self, steps: int, start: int, batch_size: int, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet or jax.process_index() != 0)
        self._batch_size, self._steps = batch_size, steps
        self._bar = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("compiling", total=steps, completed=start)
        self._waited = 0.0
        self._since, self._since_step = time.monotonic(), start
        if self._console.is_terminal:
            self._bar.start()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def waited(self, seconds: float) -> None:
        """Adds to the time spent waiting for data."""
        self._waited += seconds

    def rates(self, step: int) -> dict[str, float]:
        """Images/s, seconds a step and the fraction of the time spent waiting for data, since the last call."""
        now = time.monotonic()
        steps, seconds = max(1, step - self._since_step), max(1e-9, now - self._since)
        rates = dict(
            images_per_second=steps * self._batch_size / seconds,
            step_seconds=seconds / steps,
            data_wait=min(1.0, self._waited / seconds),
        )
        self._since, self._since_step, self._waited = now, step, 0.0
        return rates

    def show(self, step: int, record: Mapping[str, Any]) -> None:
        """Moves the bar; off a terminal prints a line."""
        text = (
            f"loss {record['loss']:.4f}  {record['images_per_second']:.0f} images/s  "
            f"{record['step_seconds'] * 1e3:.0f} ms/step  data wait {record['data_wait']:.0%}"
        )
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal:
            self.say(f"step {step}/{self._steps}  {text}")

    def close(self) -> None:
        self._bar.stop()
