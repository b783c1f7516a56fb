"""What a compiled program does, read from its HLO text: products, convolutions and collectives, loops multiplied out.

XLA's own cost analysis counts the body of a loop once. Here every loop counts as often as it runs, a conditional as its
costliest branch. Calls into kernels (Pallas) cannot be looked into: they are listed, with FLOPs only if `nn/splash.py`
made them.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

from jvlm.plan.hlo_text import Computation, Instruction, called, device_groups, parse, shape_bytes
from jvlm.plan.products import convolution_flops, dot_flops, splash_flops
from jvlm.plan.traffic import memory_traffic

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
CALLERS = ("fusion", "call", "async-start", "custom-call")
"""Instructions whose computations run as part of the program; a reduction's scalar function is not among them."""


@dataclass(frozen=True)
class Collective:
    """A collective, per chip and run of the program.

    bytes: all executions together; of the operands, or of the gathered result of an all-gather.
    groups: chips that exchange among themselves, empty for all of them; of a permute its (source, target) pairs.
    network: it passes between slices over the data-center network; `groups` are then empty.
    """

    kind: str
    count: int
    bytes: int
    groups: tuple[tuple[int, ...], ...]
    network: bool = False

    @property
    def group_size(self) -> int:
        """Chips of a group; 0 if the text says only that it is all of them."""
        return len(self.groups[0]) if self.groups else 0


@dataclass(frozen=True)
class Program:
    """Per chip and run. `unknown_loops` ran an unknown number of times and were counted once.

    traffic: bytes that pass between the chip and its main memory.
    """

    flops: int
    traffic: int
    collectives: tuple[Collective, ...]
    custom_calls: dict[str, int]
    unknown_loops: int


@dataclass
class _Cost:
    flops: int
    traffic: int
    collectives: Counter  # (kind, bytes of one, groups, over the network) -> count
    custom_calls: Counter
    unknown_loops: int

    def add(self, other: "_Cost", times: int = 1) -> None:
        self.flops += times * other.flops
        self.traffic += times * other.traffic
        self.unknown_loops += other.unknown_loops
        for mine, theirs in ((self.collectives, other.collectives), (self.custom_calls, other.custom_calls)):
            for key, count in theirs.items():
                mine[key] += times * count


def read_program(text: str) -> Program:
    """Reads `compiled.as_text()` of one device's program. Raises ValueError if it has no entry computation."""
    computations, entry = parse(text)
    if entry is None:
        raise ValueError("HLO text without an ENTRY computation")
    cost = _Reader(computations).cost(entry)
    collectives = [
        Collective(kind, count, count * size, groups, network)
        for (kind, size, groups, network), count in cost.collectives.items()
    ]
    collectives.sort(key=lambda c: (-c.bytes, c.kind))
    return Program(cost.flops, cost.traffic, tuple(collectives), dict(cost.custom_calls), cost.unknown_loops)


class _Reader:
    def __init__(self, computations: dict[str, Computation]):
        self.computations = computations
        self.known: dict[str, _Cost] = {}

    def cost(self, name: str) -> _Cost:
        """Cost of one run of a computation and of all that it calls."""
        if name in self.known:
            return self.known[name]
        total = _Cost(0, 0, Counter(), Counter(), 0)
        shapes = {i.name: i.shape for i in self.computations[name].values()}
        for instruction in self.computations[name].values():
            self._add(total, instruction, [shapes[o] for o in instruction.operands if o in shapes])
        self.known[name] = total
        return total

    def _add(self, total: _Cost, instruction: Instruction, operands: list[str]) -> None:
        opcode, attributes = instruction.opcode, instruction.attributes
        kind = opcode.removesuffix("-start")
        total.traffic += memory_traffic(instruction, operands, self.computations)
        if opcode == "dot":
            total.flops += dot_flops(instruction.shape, operands, attributes)
        elif opcode == "convolution":
            total.flops += convolution_flops(instruction.shape, operands[0], operands[1], attributes)
        elif kind in COLLECTIVES:
            groups = device_groups(attributes)
            size = sum(map(shape_bytes, operands))
            if kind == "all-gather":
                # The result of the asynchronous form holds the operand too.
                size = shape_bytes(instruction.shape) - (size if opcode.endswith("-start") else 0)
            total.collectives[kind, size, groups, False] += 1
        elif opcode == "send" and (between := re.search(r'_xla_megascale_transfer_type="(\w+)"', attributes)):
            kind = between.group(1).lower().replace("_", "-")
            total.collectives[kind, shape_bytes(operands[0]), (), True] += 1
        elif opcode == "while":
            condition, body = called(attributes, "condition")[0], called(attributes, "body")[0]
            trips = self._trips(attributes, condition)
            total.unknown_loops += trips is None
            total.add(self.cost(body), 1 if trips is None else trips)
        elif opcode == "conditional":
            names = ("branch_computations", "true_computation", "false_computation")
            branches = [self.cost(c) for n in names for c in called(attributes, n)]
            total.add(max(branches, key=lambda c: (c.flops, sum(k[1] * n for k, n in c.collectives.items()))))
        elif opcode in CALLERS:
            for attribute in ("calls", "to_apply", "called_computations"):
                for computation in called(attributes, attribute):
                    inside = self.cost(computation)
                    # What a fusion computes stays on the chip; its operands and results are counted where it is called.
                    total.add(inside if opcode == "call" else replace(inside, traffic=0))
            if opcode == "custom-call":
                target = re.search(r'custom_call_target="([^"]*)"', attributes)
                total.custom_calls[target.group(1) if target else ""] += 1
                total.flops += splash_flops(operands, attributes)

    def _trips(self, attributes: str, condition: str) -> int | None:
        """How often a loop runs: as XLA noted it, else from the one bound of its condition, counting up from 0."""
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes)
        if noted:
            return int(noted.group(1))
        inside = list(self.computations[condition].values())
        for instruction in inside:
            inside += [i for c in called(instruction.attributes, "calls") for i in self.computations[c].values()]
        bounds = [i for i in inside if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.shape)]
        compares = [i for i in inside if i.opcode == "compare"]
        if len(bounds) != 1 or len(compares) != 1:
            return None
        extra = {"LT": 0, "LE": 1}.get(compares[0].attributes.partition("direction=")[2][:2])
        return None if extra is None else int(bounds[0].operands[0]) + extra
