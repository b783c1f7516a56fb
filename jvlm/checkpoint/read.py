"""Reading one step: every check between the files on a disk and a state that may be trained on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from jvlm.checkpoint import manifest as manifests
from jvlm.checkpoint.integrity import Problem, check_files, leaf_sum
from jvlm.checkpoint.leaves import check_template, from_stored, name_leaves, stored_struct
from jvlm.core.errors import UserError
from jvlm.core.tree import unflatten

SUM_DIFFERS = "not what was on the devices when it was saved (its sum differs)"


class Restored(NamedTuple):
    """A state read back and verified."""

    step: int
    tree: Any
    meta: dict[str, Any]
    problems: list[Problem]
    """Why newer steps were refused, one line each; empty when the newest step was good."""


def read_step(orbax: ocp.AsyncCheckpointer, template: Any, step: int, folder: epath.Path) -> Restored | list[Problem]:
    """Restores `step` into `template`, or says why not. All processes return the same kind of answer.

    In this order: the manifest's own digest, every file's digest, structure, shape and dtype against the
    template, the arrays, their sums. Raises UserError naming the leaf when the template is of another state.
    """
    manifest = manifests.read(folder, step)
    if isinstance(manifest, manifests.Manifest):
        share = (jax.process_index(), jax.process_count())
        wrong = check_files(folder, manifest.files, skip=[manifests.NAME], share=share)
        problems = [Problem(f"step {step}, file {name}", reason) for name, reason in wrong]
    else:
        problems = [manifest]
    problems = _agree(step, problems)
    if problems or isinstance(manifest, Problem):
        return problems
    wanted = name_leaves(template)
    check_template(wanted, manifest.leaves, f"checkpoint {folder}")
    structs = {name: stored_struct(leaf) for name, leaf in wanted.items()}
    arrays = {  # empty arrays are not in the files: Orbax refuses them
        name: jnp.zeros(struct.shape, struct.dtype, device=struct.sharding)
        for name, struct in structs.items()
        if not struct.size
    }
    filled = {name: struct for name, struct in structs.items() if struct.size}
    try:
        arrays |= name_leaves(orbax.restore(folder, args=ocp.args.StandardRestore(unflatten(filled))))
    except (ValueError, KeyError, OSError) as error:  # the files are as written, and yet cannot be read
        return [Problem(f"step {step}", str(error).splitlines()[0])]
    sums = {name: leaf_sum(arrays[name]) for name in wanted}
    problems = [
        Problem(f"step {step}, leaf {name}", SUM_DIFFERS)
        for name in wanted
        if int(sums[name]) != manifest.leaves[name].sum
    ]
    if problems := _agree(step, problems):
        return problems
    leaves = [from_stored(arrays[name], manifest.leaves[name]) for name in wanted]
    return Restored(step, jax.tree.unflatten(jax.tree.structure(template), leaves), manifest.meta, [])


def _agree(step: int, problems: list[Problem]) -> list[Problem]:
    """Makes all processes refuse a step that one of them refuses, and checks that they talk of the same."""
    if jax.process_count() == 1:
        return problems
    seen = np.asarray(multihost_utils.process_allgather(np.array([step, len(problems)], np.int32)))
    if (seen[:, 0] != step).any():
        raise UserError(f"the processes see different checkpoints: steps {sorted(set(seen[:, 0].tolist()))}")
    refusing = np.flatnonzero(seen[:, 1])
    if refusing.size and not problems:
        return [Problem(f"step {step}", f"refused by process {refusing[0]}, whose log names the leaf or file")]
    return problems
