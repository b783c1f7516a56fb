"""Reading some leaves of a checkpoint without knowing the rest: weights for evaluation, export and initialization."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jvlm.checkpoint import manifest as manifests
from jvlm.checkpoint.integrity import Problem, check_files, leaf_sum
from jvlm.checkpoint.leaves import name_leaves
from jvlm.checkpoint.manifest import Manifest, parse_step, step_folders
from jvlm.checkpoint.read import SUM_DIFFERS, Restored
from jvlm.core.errors import UserError
from jvlm.core.files import absolute
from jvlm.core.tree import unflatten


def read_parts(directory: epath.PathLike, prefixes: Sequence[str]) -> Restored:
    """The leaves below any of `prefixes` (`params`, `frozen`, ...), as a nested dict, of the newest step that passes.

    `directory` is a folder of checkpoints, or one step. Manifest and file digests are checked before, leaf sums after
    reading; a step that does not pass is named in `problems` and the one before it is tried. Raises UserError when
    none passes.
    """
    directory = absolute(directory)
    own = parse_step(directory.name)
    folders = step_folders(directory) if own is None else {own: directory}
    problems: list[Problem] = []
    for step in sorted(folders, reverse=True):
        found = _read(step, folders[step], tuple(f"{prefix}/" for prefix in prefixes))
        if isinstance(found, Restored):
            return found._replace(problems=problems)
        problems.append(found)
    reason = f": {problems[0]}" if problems else ""
    raise UserError(f"no usable checkpoint in {directory}{reason}")


def _read(step: int, folder: epath.Path, prefixes: tuple[str, ...]) -> Restored | Problem:
    manifest = manifests.read(folder, step)
    if not isinstance(manifest, Manifest):
        return manifest
    for name, reason in check_files(folder, manifest.files, skip=[manifests.NAME]):
        return Problem(f"step {step}, file {name}", reason)
    wanted = [name for name in manifest.leaves if name.startswith(prefixes) and 0 not in manifest.leaves[name].shape]
    how = unflatten({name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted})
    part: Any = unflatten(dict.fromkeys(wanted, 0))
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        args = ocp.args.PyTreeRestore(item=part, restore_args=how, partial_restore=True)
        leaves = name_leaves(reader.restore(folder, args=args)) if wanted else {}
    except (ValueError, KeyError, OSError) as error:
        return Problem(f"step {step}", str(error).splitlines()[0])
    finally:
        reader.close()
    for name, array in leaves.items():
        if int(leaf_sum(array)) != manifest.leaves[name].sum:
            return Problem(f"step {step}, leaf {name}", SUM_DIFFERS)
    tree = unflatten({name: jnp.asarray(array) for name, array in leaves.items()})
    return Restored(step, tree, manifest.meta, [])
