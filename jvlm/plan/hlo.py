"""What a compiled program does, read from its HLO text: products, convolutions and collectives, loops multiplied out.

XLA's own cost analysis counts the body of a loop once. Here every loop counts as often as it runs, a conditional as its
costliest branch. Calls into kernels (Pallas) cannot be looked into: they are listed, with no FLOPs.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

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
    """

    kind: str
    count: int
    bytes: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def group_size(self) -> int:
        """Chips of a group; 0 if the text says only that it is all of them."""
        return len(self.groups[0]) if self.groups else 0


@dataclass(frozen=True)
class Program:
    """Per chip and run. `unknown_loops` ran an unknown number of times and were counted once."""

    flops: int
    collectives: tuple[Collective, ...]
    custom_calls: dict[str, int]
    unknown_loops: int


@dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


@dataclass
class _Cost:
    flops: int
    collectives: Counter  # (kind, bytes of one, groups) -> count
    custom_calls: Counter
    unknown_loops: int

    def add(self, other: "_Cost", times: int = 1) -> None:
        self.flops += times * other.flops
        self.unknown_loops += other.unknown_loops
        for mine, theirs in ((self.collectives, other.collectives), (self.custom_calls, other.custom_calls)):
            for key, count in theirs.items():
                mine[key] += times * count


def read_program(text: str) -> Program:
    """Reads `compiled.as_text()` of one device's program. Raises ValueError if it has no entry computation."""
    computations, entry = _parse(text)
    if entry is None:
        raise ValueError("HLO text without an ENTRY computation")
    cost = _Reader(computations).cost(entry)
    collectives = [
        Collective(kind, count, count * size, groups) for (kind, size, groups), count in cost.collectives.items()
    ]
    collectives.sort(key=lambda c: (-c.bytes, c.kind))
    return Program(cost.flops, tuple(collectives), dict(cost.custom_calls), cost.unknown_loops)


class _Reader:
    def __init__(self, computations: dict[str, dict[str, _Instruction]]):
        self.computations = computations
        self.known: dict[str, _Cost] = {}

    def cost(self, name: str) -> _Cost:
        """Cost of one run of a computation and of all that it calls."""
        if name in self.known:
            return self.known[name]
        total = _Cost(0, Counter(), Counter(), 0)
        shapes = {i.name: i.shape for i in self.computations[name].values()}
        for instruction in self.computations[name].values():
            self._add(total, instruction, [shapes[o] for o in instruction.operands if o in shapes])
        self.known[name] = total
        return total

    def _add(self, total: _Cost, instruction: _Instruction, operands: list[str]) -> None:
        opcode, attributes = instruction.opcode, instruction.attributes
        kind = opcode.removesuffix("-start")
        if opcode == "dot":
            total.flops += _dot_flops(instruction.shape, operands, attributes)
        elif opcode == "convolution":
            total.flops += convolution_flops(instruction.shape, operands[0], operands[1], attributes)
        elif kind in COLLECTIVES:
            groups = _groups(attributes)
            size = sum(map(shape_bytes, operands))
            if kind == "all-gather":
                # The result of the asynchronous form holds the operand too.
                size = shape_bytes(instruction.shape) - (size if opcode.endswith("-start") else 0)
            total.collectives[kind, size, groups] += 1
        elif opcode == "while":
            condition, body = _called(attributes, "condition")[0], _called(attributes, "body")[0]
            trips = self._trips(attributes, condition)
            total.unknown_loops += trips is None
            total.add(self.cost(body), 1 if trips is None else trips)
        elif opcode == "conditional":
            names = ("branch_computations", "true_computation", "false_computation")
            branches = [self.cost(c) for n in names for c in _called(attributes, n)]
            total.add(max(branches, key=lambda c: (c.flops, sum(k[1] * n for k, n in c.collectives.items()))))
        elif opcode in CALLERS:
            for attribute in ("calls", "to_apply", "called_computations"):
                for computation in _called(attributes, attribute):
                    total.add(self.cost(computation))
            if opcode == "custom-call":
                target = re.search(r'custom_call_target="([^"]*)"', attributes)
                total.custom_calls[target.group(1) if target else ""] += 1

    def _trips(self, attributes: str, condition: str) -> int | None:
        """How often a loop runs: as XLA noted it, else from the one bound of its condition, counting up from 0."""
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes)
        if noted:
            return int(noted.group(1))
        inside = list(self.computations[condition].values())
        for instruction in inside:
            inside += [i for c in _called(instruction.attributes, "calls") for i in self.computations[c].values()]
        bounds = [i for i in inside if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.shape)]
        compares = [i for i in inside if i.opcode == "compare"]
        if len(bounds) != 1 or len(compares) != 1:
            return None
        extra = {"LT": 0, "LE": 1}.get(compares[0].attributes.partition("direction=")[2][:2])
        return None if extra is None else int(bounds[0].operands[0]) + extra


def shape_bytes(shape: str) -> int:
    """Bytes of an HLO shape without padding: `f32[2,3]{1,0}` is 24; tuples are summed, tokens are nothing."""
    total = 0
    for dtype, dims in _arrays(shape):
        width = re.search(r"\d+", dtype)
        bits = 8 if dtype == "pred" else int(width.group()) if width else 0
        bits = 8 if dtype.startswith("f8") else bits
        total += -(-bits * prod(dims) // 8)
    return total


def convolution_flops(shape: str, image: str, kernel: str, attributes: str) -> int:
    """FLOPs of an HLO convolution: two for each factor pair that is neither padding nor a gap of a dilation.

    A TPU compiler writes matrix products as convolutions too, some of them with windows that lie mostly in padding.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        raise ValueError(f"convolution without dim_labels: {attributes[:120]}")
    image_sizes, kernel_sizes, out_sizes = (
        dict(zip(names, _dims(s))) for names, s in zip(labels.groups(), (image, kernel, shape))
    )
    flops = 2 * out_sizes["b"] * out_sizes["f"] * kernel_sizes["i"]
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(item.split("=") for item in window.group(1).split()) if window else {}
    for axis in sorted(set(kernel_sizes) - set("io")):
        place = int(axis)
        stride, image_gap, kernel_gap = (
            _window(settings, name, place, "1") for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low = int(_window_text(settings, "pad", place, "0_0").split("_")[0])
        starts = np.arange(out_sizes[axis])[:, None] * stride - low
        positions = starts + np.arange(kernel_sizes[axis])[None, :] * kernel_gap
        extent = (image_sizes[axis] - 1) * image_gap + 1
        flops *= int(np.sum((positions >= 0) & (positions < extent) & (positions % image_gap == 0)))
    return flops


def _window_text(settings: dict[str, str], name: str, place: int, default: str) -> str:
    return settings[name].split("x")[place] if name in settings else default


def _window(settings: dict[str, str], name: str, place: int, default: str) -> int:
    return int(_window_text(settings, name, place, default))


def _dot_flops(shape: str, operands: list[str], attributes: str) -> int:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    dims = _dims(operands[0])
    depth = prod(dims[int(i)] for i in contracted.group(1).split(",") if i) if contracted else 1
    return 2 * prod(_dims(shape)) * depth


def _arrays(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for dtype, dims in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", shape):
        yield dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)


def _dims(shape: str) -> tuple[int, ...]:
    return next(_arrays(shape))[1]


def _called(attributes: str, name: str) -> list[str]:
    found = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", attributes)
    return re.findall(r"%?([\w.\-]+)", found.group(1)) if found else []


def _groups(attributes: str) -> tuple[tuple[int, ...], ...]:
    """Replica groups or source-target pairs, written out or as a transposed range (`[2,4]<=[4,2]T(1,0)`)."""
    ranges = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if ranges:
        shape, source = (_ints(ranges.group(i).split(",")) for i in (1, 2))
        devices = np.arange(prod(source)).reshape(source)
        if ranges.group(3):
            devices = devices.transpose(_ints(ranges.group(3).split(",")))
        return tuple(map(tuple, devices.reshape(shape).tolist()))
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", attributes)
    groups = re.findall(r"\{([\d,]+)\}", listed.group(1)) if listed else []
    return tuple(_ints(group.split(",")) for group in groups)


def _ints(texts: Iterable[str]) -> tuple[int, ...]:
    return tuple(int(t) for t in texts)


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str | None]:
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header.group(2), {})
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            instruction = _parse_instruction(line.strip().removeprefix("ROOT "))
            current[instruction.name] = instruction
    return computations, entry


def _parse_instruction(line: str) -> _Instruction:
    name, rest = line.split(" = ", 1)
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = start + _closing(rest[start:])
    inside = rest[start + 1 : end - 1]
    operands = re.findall(r"%([\w.\-]+)", inside) or [o.strip() for o in inside.split(",")]
    return _Instruction(name.lstrip("%"), shape, rest[:start], tuple(operands), rest[end:])


def _closing(text: str) -> int:
    """Place after the parenthesis that closes the one at the start."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced HLO: {text[:120]}")
