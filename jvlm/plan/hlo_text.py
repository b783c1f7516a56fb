"""HLO text in parts: computations, instructions, shapes, groups of devices."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True)
class Instruction:
    """`name = shape opcode(operands), attributes`; a parameter's only operand is its number."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool = False


Computation = dict[str, Instruction]


def parse(text: str) -> tuple[dict[str, Computation], str | None]:
    """The computations of a module by name, and which of them is the entry."""
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in _whole_lines(text):
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header.group(2), {})
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            instruction = _parse_instruction(line.strip())
            current[instruction.name] = instruction
    return computations, entry


def _whole_lines(text: str) -> Iterator[str]:
    """Lines of `text`. What a kernel says of itself stands on lines of its own inside of an instruction's: left out."""
    begun = ""
    for line in text.splitlines():
        if begun and not line.startswith("}}"):
            continue
        line, begun = begun + line, ""
        if line.endswith("kernel_metadata={"):
            begun = line
        else:
            yield line


def _parse_instruction(line: str) -> Instruction:
    root = line.startswith("ROOT ")
    line = line.removeprefix("ROOT ")
    name, rest = line.split(" = ", 1)
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = start + _closing(rest[start:])
    inside = rest[start + 1 : end - 1]
    operands = re.findall(r"%([\w.\-]+)", inside) or [o.strip() for o in inside.split(",")]
    return Instruction(name.lstrip("%"), shape, rest[:start], tuple(operands), rest[end:], root)


def _closing(text: str) -> int:
    """Place after the parenthesis that closes the one at the start."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    raise ValueError(f"unbalanced HLO: {text[:120]}")


def shape_bytes(shape: str) -> int:
    """Bytes of an HLO shape without padding: `f32[2,3]{1,0}` is 24; tuples are summed, tokens are nothing."""
    return sum(_array_bytes(dtype, sizes) for dtype, sizes in arrays(shape))


def memory_bytes(shape: str) -> list[int]:
    """Bytes of each array of a shape in the main memory; 0 for one in another memory (`S(1)`: on the chip)."""
    found = re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?", shape)
    return [0 if re.search(r"S\([1-9]", layout) else _array_bytes(dtype, _sizes(dims)) for dtype, dims, layout in found]


def _array_bytes(dtype: str, sizes: tuple[int, ...]) -> int:
    width = re.search(r"\d+", dtype)
    bits = 8 if dtype == "pred" or dtype.startswith("f8") else int(width.group()) if width else 0
    return -(-bits * prod(sizes) // 8)


def _sizes(dims: str) -> tuple[int, ...]:
    return tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)


def arrays(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(dtype, sizes) of an HLO shape, one for each element of a tuple."""
    for dtype, dims in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", shape):
        yield dtype, _sizes(dims)


def dims(shape: str) -> tuple[int, ...]:
    """Sizes of the first array of an HLO shape."""
    return next(arrays(shape))[1]


def called(attributes: str, name: str) -> list[str]:
    """Computations that an instruction names as `name=`."""
    found = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.\-]+)", attributes)
    return re.findall(r"%?([\w.\-]+)", found.group(1)) if found else []


def device_groups(attributes: str) -> tuple[tuple[int, ...], ...]:
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
