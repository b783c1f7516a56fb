"""Looking through all the checkpoints of a run: what `jvlm verify` prints. Needs no model and no template."""

from collections.abc import Iterator

import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jvlm.checkpoint import manifest as manifests
from jvlm.checkpoint.integrity import Problem, check_files, is_finite, leaf_sum
from jvlm.checkpoint.leaves import name_leaves
from jvlm.checkpoint.manifest import Manifest, parse_step, step_folders
from jvlm.checkpoint.read import SUM_DIFFERS
from jvlm.core.errors import UserError
from jvlm.core.files import absolute
from jvlm.core.tree import unflatten

BATCH_BYTES = 1 << 30
"""How much is held in memory at a time, unless a single leaf is larger."""


def verify(directory: epath.PathLike) -> list[Problem]:
    """Checks every step below `directory`, or the one step that `directory` is; an empty list means well.

    Per step: the manifest, the digest of every file, then of every leaf the sum and that it is finite. Leaves
    are read a gigabyte at a time. Raises UserError where there is no checkpoint at all.
    """
    directory = absolute(directory)
    own = parse_step(directory.name)
    steps = step_folders(directory) if own is None else {own: directory}
    if not steps or not directory.exists():
        raise UserError(f"{directory}: no checkpoint here; give a folder of checkpoints or one step")
    return [problem for step, folder in steps.items() for problem in verify_step(step, folder)]


def verify_step(step: int, folder: epath.Path) -> list[Problem]:
    """The problems of one step; the leaves are read only when every file is as it was written."""
    manifest = manifests.read(folder, step)
    if isinstance(manifest, Problem):
        return [manifest]
    if wrong := check_files(folder, manifest.files, skip=[manifests.NAME]):
        return [Problem(f"step {step}, file {name}", reason) for name, reason in wrong]
    problems = []
    try:
        for name, array in _read_leaves(folder, manifest):
            if int(leaf_sum(array)) != manifest.leaves[name].sum:
                problems.append(Problem(f"step {step}, leaf {name}", SUM_DIFFERS))
            elif not is_finite(array):
                problems.append(Problem(f"step {step}, leaf {name}", "contains NaN or infinity"))
    except (ValueError, KeyError, OSError) as error:  # the files are as written, and yet cannot be read
        problems.append(Problem(f"step {step}", str(error).splitlines()[0]))
    return problems


def _read_leaves(folder: epath.Path, manifest: Manifest) -> Iterator[tuple[str, np.ndarray]]:
    """Every stored leaf with its name, as numpy arrays, in batches that fit into memory."""
    sizes = {
        name: np.prod(leaf.shape, dtype=np.int64) * (8 if leaf.key_impl else np.dtype(leaf.dtype).itemsize)
        for name, leaf in manifest.leaves.items()
        if 0 not in leaf.shape  # empty arrays are not in the files
    }
    batches, held = [[]], 0
    for name, size in sizes.items():
        if batches[-1] and held + size > BATCH_BYTES:
            batches.append([])
            held = 0
        batches[-1].append(name)
        held += size
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        for batch in batches:
            how = unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in batch})
            part = unflatten(dict.fromkeys(batch, 0))
            args = ocp.args.PyTreeRestore(item=part, restore_args=how, partial_restore=True)
            yield from name_leaves(reader.restore(folder, args=args)).items()
    finally:
        reader.close()
