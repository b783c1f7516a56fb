"""What the integrity of checkpoints costs: save and restore of about 1 GB of parameters, against Orbax alone.

    python benchmarks/checkpoint.py [--gigabytes 1] [--repeats 3] [--directory DIR]

Prints one JSON object. Seconds are medians over the repeats, after one unmeasured round that compiles the sums.
`blocking_s` is how long a training would stand still, `total_s` the time until the step is complete on the disk. The
files are read back from the page cache, as they are in a training that has just written them.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jvlm.checkpoint.integrity import leaf_sum, record_files
from jvlm.checkpoint.manager import Checkpoints


def make_params(gigabytes: float) -> dict[str, jax.Array]:
    """A stack of transformer kernels in float32, 24 leaves of random bits that do not compress."""
    rng = np.random.default_rng(0)
    rows = int(gigabytes * 1e9 / 24 / 4 / 1024)
    return {f"layer{i}": jnp.asarray(rng.standard_normal((rows, 1024), np.float32)) for i in range(24)}


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def one_round(params: dict[str, jax.Array], directory: Path) -> dict[str, float]:
    """Every measurement once, into an empty directory."""
    template = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for k, v in params.items()}
    seconds = {}
    checkpoints = Checkpoints(directory / "jvlm")
    start = time.perf_counter()
    seconds["save_blocking_s"] = timed(lambda: checkpoints.save(1, params, {}))
    checkpoints.wait()
    seconds["save_total_s"] = time.perf_counter() - start
    seconds["restore_s"] = timed(lambda: checkpoints.restore(template).tree)
    checkpoints.close()
    orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
    start = time.perf_counter()
    seconds["orbax_save_blocking_s"] = timed(
        lambda: orbax.save(directory / "orbax", args=ocp.args.StandardSave(params))
    )
    orbax.wait_until_finished()
    seconds["orbax_save_total_s"] = time.perf_counter() - start
    seconds["orbax_restore_s"] = timed(
        lambda: orbax.restore(directory / "orbax", args=ocp.args.StandardRestore(template))
    )
    orbax.close()
    seconds["leaf_sums_s"] = timed(lambda: [leaf_sum(leaf) for leaf in params.values()])
    seconds["file_digests_s"] = timed(lambda: record_files(epath.Path(directory / "jvlm")))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="a folder on the disk to measure; default: the temporary one")
    options = parser.parse_args()
    params = jax.block_until_ready(make_params(options.gigabytes))
    rounds = []
    for _ in range(options.repeats + 1):
        directory = Path(tempfile.mkdtemp(dir=options.directory))
        try:
            rounds.append(one_round(params, directory))
        finally:
            shutil.rmtree(directory)
    medians = {name: round(statistics.median(r[name] for r in rounds[1:]), 3) for name in rounds[0]}
    size = sum(leaf.nbytes for leaf in params.values())
    about = {"gigabytes": round(size / 1e9, 3), "repeats": options.repeats, "cores": os.cpu_count()}
    print(json.dumps({**about, "device": jax.devices()[0].device_kind, **medians}))


if __name__ == "__main__":
    main()
