"""Run as a process of its own: saves step after step without a pause until it is killed. Argument: the directory."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax.numpy as jnp
import numpy as np

from jvlm.checkpoint.manager import Checkpoints


def tree_of(step: int) -> dict:
    """What the parent expects of a step: half noise, which does not compress, half a constant."""
    noise = np.random.default_rng(step).integers(0, 256, (1 << 20,), np.uint8)
    return {"noise": jnp.asarray(noise), "many": {f"leaf{i}": jnp.full((64,), step + i) for i in range(20)}}


def main() -> None:
    checkpoints = Checkpoints(sys.argv[1], keep_last=2)
    for step in range(1, 100_000):
        checkpoints.save(step, tree_of(step), {"position": step})
        checkpoints.wait()
        print(step, flush=True)


if __name__ == "__main__":
    main()
