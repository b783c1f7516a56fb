"""What a step takes at least: its products, its memory traffic and its messages at the chip's published peaks.

Each alone, as if all else were hidden behind it. So the longest of them bounds the step's time from below and the
model FLOPs utilization from above; how far a real step stays below the bound, only a TPU tells.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jvlm.plan.hlo import Collective
from jvlm.plan.topologies import Chip


@dataclass(frozen=True)
class Movement:
    """Collectives of one kind along one set of mesh axes, per chip and step.

    axis: names joined by commas. bytes: of the operands, or of an all-gather's result. sent: bytes that a chip has to
    send at least.
    """

    kind: str
    axis: str
    count: int
    bytes: int
    sent: int
    network: bool


@dataclass(frozen=True)
class Roofline:
    """Least seconds of a step by resource, which of them is the longest, and the bound on MFU that follows."""

    seconds: dict[str, float]
    bottleneck: str
    mfu_bound: float


def movements(collectives: Iterable[Collective], mesh: Mesh, per_chip: int = 1) -> tuple[Movement, ...]:
    """A program's collectives by kind and mesh axes, the largest first; those of a single device fall away."""
    totals: Counter[tuple[str, str, bool]] = Counter()
    counts: Counter[tuple[str, str, bool]] = Counter()
    sent: Counter[tuple[str, str, bool]] = Counter()
    for collective in collectives:
        axes = ("replica",) if collective.network else group_axes(collective.groups, mesh)
        if not axes:
            continue
        key = (collective.kind, ",".join(axes), collective.network)
        size = mesh.shape["replica"] if collective.network else collective.group_size or mesh.size
        totals[key] += per_chip * collective.bytes
        counts[key] += collective.count
        sent[key] += int(per_chip * collective.bytes * sent_share(collective.kind, size))
    found = [Movement(key[0], key[1], counts[key], totals[key], sent[key], key[2]) for key in totals]
    return tuple(sorted(found, key=lambda m: (-m.bytes, m.kind, m.axis)))


def group_axes(groups: tuple[tuple[int, ...], ...], mesh: Mesh) -> tuple[str, ...]:
    """Mesh axes along which the members of a group differ. No groups at all stand for a group of every device.

    Of several slices a program knows its own alone, whose devices are the first of the mesh.
    """
    shape = mesh.devices.shape
    if not groups:
        return tuple(axis for axis, size in mesh.shape.items() if size > 1)
    places = np.asarray(np.unravel_index(np.asarray(groups), shape))  # [axes, groups, members]
    differs = (places != places[:, :, :1]).any(axis=(1, 2))
    return tuple(axis for axis, differ in zip(mesh.axis_names, differs) if differ)


def sent_share(kind: str, size: int) -> float:
    """Bytes that a member of a group of `size` has to send, per byte counted for the collective."""
    if kind in ("collective-permute", "collective-broadcast"):
        return 1.0
    part = (size - 1) / size
    return 2 * part if kind == "all-reduce" else part


def roofline(chip: Chip, compiled: int, model: int, traffic: int, moved: Iterable[Movement]) -> Roofline:
    """Seconds of each resource for a step of `compiled` FLOPs and `traffic` bytes, and the bound for `model` FLOPs.

    Interconnect: as if all of a chip's links carried its messages evenly.
    """
    sent = {True: 0, False: 0}
    for movement in moved:
        sent[movement.network] += movement.sent
    seconds = {
        "compute": compiled / chip.flops,
        "memory": traffic / chip.memory_rate,
        "interconnect": sent[False] / chip.link_rate,
    }
    if sent[True] and chip.network_rate:
        seconds["network"] = sent[True] / chip.network_rate
    bottleneck = max(seconds, key=lambda resource: seconds[resource])
    longest = seconds[bottleneck]
    return Roofline(seconds, bottleneck, model / chip.flops / longest if longest else 0.0)
