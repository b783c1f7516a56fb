"""Reading one step: every check between the files on a disk and a state that may be trained on."""

import json
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

AGREE_BYTES = 1 << 16
"""Room for ten problems of one process in the exchange, at the six bytes a character that JSON may need."""
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
    """The problems that any process found, on all processes, which must all be looking at the same step."""
    if jax.process_count() == 1:
        return problems
    text = json.dumps([step, [[p.where[:500], p.reason[:500]] for p in problems[:10]]]).encode()
    own = np.frombuffer(text.ljust(AGREE_BYTES), np.uint8)
    seen = [json.loads(row.tobytes()) for row in np.asarray(multihost_utils.process_allgather(own))]
    if any(other != step for other, _ in seen):
        raise UserError(f"the processes see different checkpoints: steps {sorted({other for other, _ in seen})}")
    return list(dict.fromkeys(Problem(*found) for _, theirs in seen for found in theirs))
