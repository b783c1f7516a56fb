"""SigLIP B/16 of big_vision and of jvlm, forward, loss and gradient, compiled side by side for a TPU slice.

    git clone https://github.com/google-research/big_vision
    python benchmarks/big_vision_siglip.py big_vision [--topology v5e:16x16] [--batch 32768]

Takes the model and the loss out of the clone as they stand there, and compiles them and jvlm's with the same mesh (all
chips on one data axis), the same shardings (parameters replicated, the batch split), the same rematerialization
(scanned layers that keep nothing) and the same dtypes (float32 throughout, the only one that every part of big_vision's
model takes). What is gone from JAX since is put back before the import, and a stub stands for TensorFlow, of which the
model uses nothing. Prints one JSON object: settings, bytes per chip, FLOPs, collectives of both. Exits 1 unless jvlm
needs less memory and at most as many FLOPs and collective bytes. No TPU is needed, libtpu (the extra `tpu`) is; it
takes minutes and says nothing about time.
"""

import argparse
import ast
import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "big_vision.models.proj.image_text.two_towers"
TRAINER = "big_vision/trainers/proj/image_text/siglip.py"
REMOVED = ("tree_map", "tree_leaves", "tree_flatten", "tree_unflatten", "tree_structure", "tree_transpose")
"""Of the module `jax`, whose namesakes in `jax.tree_util` are what they were."""
STUBBED = ("tensorflow", "tensorflow.io", "tensorflow.io.gfile")
SETTINGS = {"parameters": "replicated", "batch": "split over data", "remat": "full, scanned layers", "dtype": "float32"}


class Side(NamedTuple):
    """A model as it is compiled: shapes of its parameters, and the mean loss `(params, image, tokens)`."""

    params: Any
    loss: Callable[[Any, Any, Any], Any]


@contextmanager
def imported(clone: Path) -> Iterator[Any]:
    """The clone's module of the model, on today's JAX and without TensorFlow; nothing of it is left afterwards."""
    import jax

    added = [name for name in REMOVED if not hasattr(jax, name)]
    known = set(sys.modules)
    for name in added:
        setattr(jax, name, getattr(jax.tree_util, name))
    sys.path.insert(0, str(clone))
    try:
        with stubs():
            module = importlib.import_module(MODEL)
        yield module
    finally:
        sys.path.remove(str(clone))
        for name in added:
            delattr(jax, name)
        for name in set(sys.modules) - known:
            if name.split(".")[0] == "big_vision":
                del sys.modules[name]


@contextmanager
def stubs() -> Iterator[None]:
    """Empty modules in place of TensorFlow's, only while the clone is imported: others ask whether it is there."""
    made = [name for name in STUBBED if name not in sys.modules]
    for name in made:
        sys.modules[name] = types.ModuleType(name)
        above, _, last = name.rpartition(".")
        if above:
            setattr(sys.modules[above], last, sys.modules[name])
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def published_loss(clone: Path, names: dict[str, Any]) -> Callable[[Any], Any]:
    """The function `loss_fn(params)` inside the clone's trainer, where what it closes over is found in `names`."""
    path = clone / TRAINER
    found = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name == "loss_fn"
    ]
    if len(found) != 1:
        raise SystemExit(f"{path} has {len(found)} functions loss_fn, not one; use a clone of 2025-05 or so")
    module = ast.Module(body=[found[0]], type_ignores=[])
    exec(compile(module, str(path), "exec"), names)
    return names["loss_fn"]


def big_vision(module: Any, clone: Path, fields: dict[str, Any], image: Any, tokens: Any) -> Side:
    """big_vision's side, its towers as large as those of `fields`, jvlm's fields of a SigLIP."""
    import jax
    import jax.numpy as jnp

    sizes = {tower: {key: fields[tower][key] for key in ("width", "depth", "num_heads", "mlp_dim")} for tower in fields}
    shared = dict(scan=True, remat_policy="nothing_saveable")
    patch = fields["image"]["patch_size"]
    model = module.Model(
        image=dict(sizes["image"], **shared, patch_size=(patch, patch), pool_type="map", dtype_mm="float32"),
        text=dict(sizes["text"], **shared, vocab_size=fields["text"]["vocab_size"]),
        out_dim=(None, fields["image"]["width"]),
        temperature_init=10.0,
        bias_init=-10.0,
    )
    params = jax.eval_shape(lambda key: model.init(key, image_zeros(image), image_zeros(tokens)), jax.random.key(0))

    def loss(params: Any, image: Any, tokens: Any) -> Any:
        closed = dict(jax=jax, jnp=jnp, model=model, images=image, labels=tokens, rng_model=jax.random.key(0))
        return published_loss(clone, closed)(params)

    return Side(params["params"], loss)


def own(fields: dict[str, Any], image: Any, tokens: Any, **options: Any) -> Side:
    """jvlm's side; `options` go to the ring."""
    import jax

    from jvlm import models
    from jvlm.tasks import Contrastive
    from jvlm.train.state import task_variables

    settings = dict(scan=True, remat="full", dtype="float32")
    model: Any = models.create(dict(family="siglip", **settings, **fields))
    task = Contrastive(model, kind="sigmoid", options=options)
    params, _, _ = task_variables(task, dict(image=image, tokens=tokens))

    def loss(params: Any, image: Any, tokens: Any) -> Any:
        found = task.loss(params, {}, dict(image=image, tokens=tokens), jax.random.key(0))
        return found.sum / found.weight

    return Side(params, loss)


def image_zeros(shape: Any) -> Any:
    import jax.numpy as jnp

    return jnp.zeros((1, *shape.shape[1:]), shape.dtype)


def measure(side: Side, image: Any, tokens: Any, mesh: Any) -> dict[str, Any]:
    """The value and gradient of a side's loss, compiled for the mesh: bytes per chip, FLOPs, collectives."""
    import flax.linen as nn
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from jvlm.core import sharding
    from jvlm.plan.hlo import read_program
    from jvlm.plan.roofline import movements
    from jvlm.plan.topologies import uncached

    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), side.params)
    batch = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split) for x in (image, tokens)]
    began = time.monotonic()
    # Each side reads its own of the two contexts.
    with sharding.use(mesh, sharding.PRESETS["dp"]), nn.logical_axis_rules([("act_batch", "data")]), uncached():
        step = jax.jit(jax.value_and_grad(side.loss), out_shardings=(whole, whole))
        compiled = step.lower(params, *batch).compile()
    memory: Any = compiled.memory_analysis()
    program = read_program(compiled.as_text() or "")
    moved = movements(program.collectives, mesh)
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(side.params)),
        "dtypes": sorted({str(x.dtype) for x in jax.tree.leaves(side.params)}),
        "peak_bytes": memory.peak_memory_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": program.flops,
        "collective_bytes": sum(m.bytes for m in moved),
        "sent_bytes": sum(m.sent for m in moved),
        "collectives": [dict(kind=m.kind, axis=m.axis, count=m.count, bytes=m.bytes) for m in moved],
        "unknown_loops": program.unknown_loops,
        "compile_s": round(time.monotonic() - began, 1),
    }


def broken_limits(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What the comparison promises and does not hold."""
    broken = [key for key in ("flops", "collective_bytes") if ours[key] > theirs[key]]
    broken += [key for key in ("parameters", "dtypes") if ours[key] != theirs[key]]
    return broken + ["peak_bytes"] * (ours["peak_bytes"] >= theirs["peak_bytes"])


def compare(clone: Path, fields: dict[str, Any], batch: int, devices: Any) -> dict[str, Any]:
    """Both sides at a batch on all devices, and what is not as it should be."""
    import jax
    import numpy as np

    from jvlm.core.sharding import make_mesh

    size = fields["image"]["image_size"]
    image = jax.ShapeDtypeStruct((batch, size, size, 3), np.float32)
    tokens = jax.ShapeDtypeStruct((batch, fields["text"]["length"]), np.int32)
    mesh = make_mesh({"data": -1}, devices)
    rows = {}
    with imported(clone) as module:
        sides = dict(jvlm=own(fields, image, tokens), big_vision=big_vision(module, clone, fields, image, tokens))
        for name, side in sides.items():
            rows[name] = measure(side, image, tokens, mesh)
            print(json.dumps({name: rows[name]}), file=sys.stderr, flush=True)
    ratios = {key: rows["jvlm"][key] / rows["big_vision"][key] for key in ("peak_bytes", "flops", "collective_bytes")}
    broken = broken_limits(rows["jvlm"], rows["big_vision"])
    return dict(chips=mesh.size, batch_size=batch, settings=SETTINGS, **rows, ratios=ratios, broken_limits=broken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="a clone of big_vision")
    parser.add_argument("--topology", default="v5e:16x16")
    parser.add_argument("--batch", type=int, default=32_768)
    options = parser.parse_args()
    if not (options.clone / TRAINER).is_file():
        parser.error(f"{options.clone} is no clone of big_vision: it has no {TRAINER}")

    from jvlm.plan.topologies import ENVIRONMENT, describe

    os.environ.update(ENVIRONMENT)  # before jax is imported
    from jvlm.models.siglip import VARIANTS

    report = compare(options.clone, VARIANTS["B/16"], options.batch, describe(options.topology).devices)
    print(json.dumps({"topology": options.topology, **report}))
    return 1 if report["broken_limits"] else 0


if __name__ == "__main__":
    sys.exit(main())
