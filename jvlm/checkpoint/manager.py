"""Saving and restoring a training state: Orbax writes, jvlm checks.

    <directory>/00000100/               one folder a step, written by Orbax
    <directory>/00000100/manifest.json  written last, by jvlm: leaf sums, file digests, position, metrics

A step without a valid manifest is incomplete and never loaded. Deleting a step begins with its manifest, so
that a kill at any moment leaves complete steps and leftovers, nothing in between. Leftovers go at a run's
first save and not when a directory is opened: an evaluation may look into it while a training writes.
"""

import json
import threading
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from jvlm.checkpoint import manifest as manifests
from jvlm.checkpoint.integrity import Problem, leaf_sum, record_files
from jvlm.checkpoint.leaves import as_stored, check_storable, is_key, name_leaves
from jvlm.checkpoint.manifest import LeafRecord, Manifest, step_folders, step_name
from jvlm.checkpoint.read import Restored, read_step
from jvlm.checkpoint.retention import Best, check_rules, kept_steps
from jvlm.core.errors import UserError
from jvlm.core.files import absolute
from jvlm.core.tree import unflatten

TEMPORARY = ".orbax-checkpoint-tmp"
BARRIER_MS = 20 * 60 * 1000


class Checkpoints:
    """The checkpoints of one run. All processes of the run make the same calls in the same order.

    Args:
      directory: where the steps lie; anything `etils.epath` opens, `gs://` included.
      keep_last: how many of the newest steps stay.
      keep_every: steps that are a multiple of this stay for ever.
      keep_best: `(metric, "max" | "min")`: the step that is best by this metric stays, too.
      asynchronous: `save` returns once the arrays are copied off the devices and writes behind the training.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_last: int = 3,
        keep_every: int | None = None,
        keep_best: Best | None = None,
        asynchronous: bool = True,
    ):
        check_rules(keep_last, keep_every, keep_best)
        self.directory = absolute(directory)
        self._rules: dict[str, Any] = {
            "keep_last": keep_last,
            "keep_every": keep_every,
            "keep_best": keep_best,
        }
        self._asynchronous = asynchronous
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._verified: int | None = None  # the step last known to be good: restored, or written by us
        self._refused: set[int] = set()
        self._restored = self._cleaned = False

    def save(self, step: int, tree: Any, meta: dict[str, Any], metrics: dict[str, Any] | None = None) -> None:
        """Saves `tree`, a pytree of (sharded) jax arrays, `meta`, what JSON holds, and `metrics`, numbers.

        Returns once the arrays may be donated; the rest happens behind, and an error in it is raised by the
        next call. Saving the step that was just saved or restored again does nothing. Raises UserError for a
        leaf that cannot be stored, and for a step that another run has completed here.
        """
        self.wait()
        if step == self._verified:
            return
        leaves = name_leaves(tree)
        check_storable(leaves)
        meta_json = manifests.encode(meta)  # as text, because the caller may go on changing what it gave
        numbers = _numbers(metrics or {})
        stored = {name: as_stored(leaf) for name, leaf in leaves.items()}
        filled = {name: leaf for name, leaf in stored.items() if leaf.size}  # Orbax refuses empty arrays
        if not filled:
            raise UserError(f"checkpoint of step {step}: the tree has no arrays")
        self._make_room(step)
        sums = {name: leaf_sum(leaf) for name, leaf in stored.items()}  # on the devices, not waited for
        records = {name: _record(leaf) for name, leaf in leaves.items()}
        folder = self.directory / step_name(step)
        self._orbax.save(folder, args=ocp.args.StandardSave(unflatten(filled)))

        def write() -> None:
            self._orbax.wait_until_finished()  # on every process, with Orbax's own barriers inside
            if jax.process_index() == 0:
                summed = {name: record._replace(sum=int(sums[name])) for name, record in records.items()}
                files = record_files(folder)
                found = Manifest(step, json.loads(meta_json), numbers, summed, files)
                manifests.write(folder, found)
                self._retain(step)
            self._verified = step

        def commit() -> None:
            # Runs behind the training: no collective here, which could meet one of the training's out of order.
            # The barrier is the coordination service's; a process that failed comes to it, too.
            try:
                try:
                    write()
                finally:
                    barrier = ocp.multihost.get_barrier_sync_fn()
                    barrier(key=f"jvlm_manifest_{step}", timeout_ms=BARRIER_MS)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=commit, name=f"checkpoint-{step}")
        self._thread.start()
        if not self._asynchronous:
            self.wait()

    def wait(self) -> None:
        """Blocks until the save in progress is complete. Raises UserError when it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            self._cleaned = False
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"a checkpoint was not written to {self.directory}: {reason}; earlier ones are intact"
            ) from error

    def close(self) -> None:
        """Waits for the save in progress and frees Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def steps(self) -> list[int]:
        """The complete steps, oldest first: those whose manifest is undamaged, less those `restore` refused."""
        return sorted(self._complete())

    def latest_complete(self) -> int | None:
        """The newest complete step, or None. Only manifests are read; `restore` looks at the rest."""
        return max(self._complete(), default=None)

    def restore(self, template: Any, step: int | None = None) -> Restored:
        """Reads a state into the structure, dtypes and shardings of `template`.

        Args:
          template: the tree as `jax.ShapeDtypeStruct`s with shardings (or arrays), on any mesh.
          step: the step to read. None takes the newest that passes: manifest and file digests before anything
            is read, leaf sums after.

        Returns the verified state, with a Problem for each leaf or file for which a newer step was refused.
        Raises UserError when a named step does not pass, when none does, and, naming the leaf, when the
        checkpoint differs from the template in structure, shape or dtype.
        """
        self.wait()
        folders = step_folders(self.directory)
        if not folders or (step is not None and step not in folders):
            have = ", ".join(map(str, folders)) or "none"
            wanted = "" if step is None else f" of step {step}"
            raise UserError(f"no checkpoint{wanted} in {self.directory}; steps there: {have}")
        problems: list[Problem] = []
        for candidate in reversed(folders) if step is None else [step]:
            found = read_step(self._orbax, template, candidate, folders[candidate])
            if isinstance(found, Restored):
                self._verified, self._restored = candidate, True
                return found._replace(problems=problems)
            self._refused.add(candidate)
            problems += found
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        advice = "no step is usable" if step is None else "leave out the step to use the newest good one"
        raise UserError(f"checkpoint {self.directory}: {problems[0]}{more}; {advice}")

    def _complete(self) -> dict[int, Manifest]:
        read = {step: manifests.read(folder, step) for step, folder in step_folders(self.directory).items()}
        return {s: found for s, found in read.items() if isinstance(found, Manifest) and s not in self._refused}

    def _retain(self, newest: int) -> None:
        """Deletes what no rule keeps. Runs only once `newest` is complete, and never touches it."""
        good = {step: found.metrics for step, found in self._complete().items()}
        kept = kept_steps(good, **self._rules) | {newest}
        if self._verified is not None and self._verified > newest:
            kept.add(self._verified)
        # A refused step may still be of use to somebody until a complete one has gone past it.
        late = {step for step in self._refused if step < newest}
        for step in (set(good) - kept) | late:
            _remove(self.directory / step_name(step))
        self._refused -= late

    def _make_room(self, step: int) -> None:
        """Clears the leftovers of killed saves, once, and a refused or abandoned step of the same number."""
        folder = self.directory / step_name(step)
        if not self._restored and step in self._complete():
            raise UserError(
                f"step {step} is already complete in {self.directory}: restore it, or use an empty directory"
            )
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self._cleaned:
                self._clean()
            if folder.exists():
                _remove(folder)
        self._cleaned = True
        self._refused.discard(step)

    def _clean(self) -> None:
        for entry in list(self.directory.iterdir()):
            stem, is_temporary, _ = entry.name.partition(TEMPORARY)
            leftover = is_temporary or not (entry / manifests.NAME).exists()
            if manifests.parse_step(stem) is not None and leftover:
                entry.rmtree()


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in metrics.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"metrics of a checkpoint: {error}; give one number each") from error


def _record(leaf: jax.Array) -> LeafRecord:
    impl = str(jax.random.key_impl(leaf)) if is_key(leaf) else None
    return LeafRecord(leaf.shape, str(leaf.dtype), 0, impl)


def _remove(folder: epath.Path) -> None:
    """Deletes a step, manifest first: killed half-way it is a leftover and not a damaged step."""
    (folder / manifests.NAME).unlink(missing_ok=True)
    folder.rmtree(missing_ok=True)
