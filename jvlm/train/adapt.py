"""Adapters in a training run: which base they stand on, and what a checkpoint holds of both.

A run with `config.adapter` that starts from a directory keeps the directory as its base: checkpoints hold the trained
arrays alone, `model.json` names the base and its identity. A run without one has a base that exists nowhere else, so
its checkpoints hold everything, as those of any other run.
"""

import json
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding

from jvlm.checkpoint.identity import identity
from jvlm.checkpoint.initialize import Initialized
from jvlm.core.errors import UserError
from jvlm.core.leaves import Leaf
from jvlm.core.sharding import shard_params, spec
from jvlm.core.tree import flatten, map_paths
from jvlm.core.types import Params
from jvlm.interop.native import MODEL_FILE
from jvlm.train.adapter_base import check_base
from jvlm.train.setup import Run
from jvlm.train.state import TrainState
from jvlm.transforms.adapters import build_leaves, innermost
from jvlm.transforms.freeze import combine


def based(run: Run) -> bool:
    """Whether a run's checkpoints leave out a base that lies in a directory of its own."""
    return run.adapter is not None and run.source is not None


def describe(run: Run, workdir: Any) -> dict[str, Any] | None:
    """What `model.json` says of an adapter run: its method, its base, the base's identity, how that was quantized.

    UserError where the workdir holds checkpoints over another base.
    """
    if run.adapter is None:
        return None
    if run.source is None:
        return dict(method=run.config["adapter"], quantize=run.quantization, base=None, identity=None)
    described = dict(
        method=run.config["adapter"],
        quantize=run.quantization,
        base=_absolute(run.config["init"]),
        identity=identity(run.source.params),
    )
    if (workdir / MODEL_FILE).exists() and (workdir / "checkpoints").exists():
        before = json.loads((workdir / MODEL_FILE).read_text()).get("adapter")
        if before and before["identity"]:
            check_base(described | dict(identity=before["identity"]), run.source.params, workdir)
    return described


def _absolute(init: str) -> str:
    """`init` with the directory that it names, where it names one alone, from the root."""
    return init if "=" in init or init.startswith("package:") else str(Path(init).resolve())


def plain_target(run: Run, state: TrainState) -> Params:
    """The parameters that a run asks its directory for: those of its state, a shape with its sharding for a leaf."""
    names = flatten(run.names)

    def plain(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, Leaf):
            return leaf
        placed = NamedSharding(run.mesh, spec(names[path], leaf.shape, run.mesh, run.rules))
        return jax.ShapeDtypeStruct(leaf.shape, innermost(leaf).dtype, sharding=placed)

    return map_paths(plain, combine(state.params, state.frozen))


def attach_to(run: Run, whole: Initialized) -> Params:
    """The parameters that a run starts from with its adapters on them, on the run's mesh.

    UserError where a parameter comes neither from the base nor from training: no checkpoint would hold it.
    """
    if run.adapter is None:
        return whole.params
    leaves = {path for path, leaf in flatten(run.params).items() if isinstance(leaf, Leaf)}
    lost = [path for path in whole.fresh if path in run.frozen or path in leaves]
    if lost:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        raise UserError(
            f"{run.config['init']} has no {lost[0]}{more}, and the adapter does not train it; add it to adapter.train"
        )
    key = jax.random.fold_in(jax.random.key(run.config["seed"]), 1)
    params = build_leaves(whole.params, run.quantization, run.adapter, key)
    return jax.device_put(params, shard_params(params, run.names, run.mesh, run.rules))
