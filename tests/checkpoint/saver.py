"""Run as a process of its own: for each directory on stdin, a child that saves step after step until it is killed.

The child is a fork of a process that has imported everything and computed nothing, so that a kill costs a fraction of
what starting Python and importing jax does. It goes on after the newest complete step of its directory. On stdout: its
process id, every step once it is complete, `-` when the child is gone.
"""

import os
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


def save_for_ever(directory: str) -> None:
    checkpoints = Checkpoints(directory, keep_last=2)
    step = checkpoints.latest_complete() or 0
    while True:
        step += 1
        checkpoints.save(step, tree_of(step), {"position": step})
        checkpoints.wait()
        print(step, flush=True)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            save_for_ever(line.strip())
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("-", flush=True)


if __name__ == "__main__":
    main()
