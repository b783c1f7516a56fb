"""Bytes that an HLO instruction moves between the chip and its main memory: operands read, results written.

A fusion reads every operand at least once and keeps what is in between on the chip, so the sum over a program is a
lower bound. Where only a slice of an array is read or written (a layer of stacked parameters), the slice counts.
"""

import re
from collections.abc import Mapping

from jvlm.plan.hlo_text import Computation, Instruction, called, memory_bytes, shape_bytes

_FREE = (
    *("parameter", "constant", "iota", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"),
    *("after-all", "partition-id", "replica-id", "opt-barrier"),
)
_SLICES = ("dynamic-slice", "slice", "gather")


def memory_traffic(instruction: Instruction, operands: list[str], computations: Mapping[str, Computation]) -> int:
    """Bytes of one execution, given the shapes of its operands. Asynchronous pairs count where they start."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
        return 0
    if opcode == "fusion":
        return _fusion(instruction, operands, computations)
    written = memory_bytes(instruction.shape)
    if opcode in _SLICES:
        return 2 * sum(written)
    if opcode == "dynamic-update-slice":
        return 2 * sum(memory_bytes(operands[1]))
    if opcode == "slice-start":
        # The shape holds the whole operand and the slice; a slice on the chip is only read.
        sizes = [shape_bytes(array) for array in re.findall(r"[a-z]\w*\[[\d,]*\]", instruction.shape)]
        return sizes[1] + written[1]
    if opcode.endswith("-start"):
        return sum(written)  # the shape holds the operands too
    return sum(written) + sum(byte for shape in operands for byte in memory_bytes(shape))


def _fusion(instruction: Instruction, operands: list[str], computations: Mapping[str, Computation]) -> int:
    inside = _body(instruction, computations)
    read = 0
    for place, shape in enumerate(operands):
        whole = _bytes(shape)
        read += min(whole, _read_at(place, whole, inside, computations)) if whole else 0
    root = next((i for i in inside.values() if i.root), None)
    roots = [inside.get(name) for name in root.operands] if root and root.opcode == "tuple" else [root]
    written = memory_bytes(instruction.shape)
    if len(roots) != len(written):
        return read + sum(written)
    results = zip(written, roots)
    return read + sum(min(byte, _written_by(result, inside, computations)) if byte else 0 for byte, result in results)


def _body(instruction: Instruction, computations: Mapping[str, Computation]) -> Computation:
    (name,) = called(instruction.attributes, "calls")
    return computations[name]


def _read_at(place: int, whole: int, inside: Computation, computations: Mapping[str, Computation]) -> int:
    """Bytes that a fusion reads of its operand at `place`."""
    for instruction in inside.values():
        if instruction.opcode == "parameter" and instruction.operands[0] == str(place):
            return _read_of(instruction, whole, inside, computations)
    return whole


def _read_of(source: Instruction, whole: int, inside: Computation, computations: Mapping[str, Computation]) -> int:
    """Bytes that are read of an array of `whole` bytes: only the slices, where nothing else uses it."""
    total = 0
    for user in inside.values():
        for place, name in enumerate(user.operands):
            if name != source.name or user.opcode == "parameter":
                continue
            if user.opcode == "bitcast":
                total += _read_of(user, whole, inside, computations)
            elif user.opcode == "fusion":
                total += _read_at(place, whole, _body(user, computations), computations)
            elif user.opcode in _SLICES and place == 0:
                total += shape_bytes(user.shape)
            elif user.opcode == "dynamic-update-slice" and place == 0:
                continue  # written in place
            else:
                return whole
    return total


def _written_by(result: Instruction | None, inside: Computation, computations: Mapping[str, Computation]) -> int:
    """Bytes that a fusion writes for a result: of one updated in place the update."""
    while result is not None and result.opcode == "bitcast":
        result = inside.get(result.operands[0])
    if result is None:
        return 0
    if result.opcode == "dynamic-update-slice" and result.operands[1] in inside:
        return shape_bytes(inside[result.operands[1]].shape)
    if result.opcode == "fusion":
        body = _body(result, computations)
        return _written_by(next((i for i in body.values() if i.root), None), body, computations)
    return shape_bytes(result.shape)


def _bytes(shape: str) -> int:
    return sum(memory_bytes(shape))
