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
        (name,) = called(instruction.attributes, "calls")
        return _fusion(instruction, operands, computations[name])
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


def _fusion(instruction: Instruction, operands: list[str], inside: Computation) -> int:
    users: dict[str, list[Instruction]] = {name: [] for name in inside}
    for other in inside.values():
        for name in other.operands:
            if name in users:
                users[name].append(other)
    parameters = {int(i.operands[0]): i for i in inside.values() if i.opcode == "parameter"}
    read = 0
    for place, shape in enumerate(operands):
        whole = sum(memory_bytes(shape))
        read += min(whole, _read_of(parameters[place], users)) if whole and place in parameters else whole
    root = next((i for i in inside.values() if i.root), None)
    roots = [inside.get(name) for name in root.operands] if root and root.opcode == "tuple" else [root]
    written = memory_bytes(instruction.shape)
    if len(roots) != len(written):
        return read + sum(written)
    return read + sum(min(byte, _written_by(result, inside)) if byte else 0 for byte, result in zip(written, roots))


def _read_of(source: Instruction, users: Mapping[str, list[Instruction]]) -> int:
    """Bytes that a fusion reads of an array: only the slices, where nothing else uses it."""
    total = 0
    for user in users[source.name]:
        if user.opcode == "bitcast":
            total += _read_of(user, users)
        elif user.opcode in _SLICES and user.operands[0] == source.name:
            total += _bytes(user.shape)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == source.name:
            continue  # written in place
        else:
            return _bytes(source.shape)
    return total


def _written_by(result: Instruction | None, inside: Computation) -> int:
    while result is not None and result.opcode == "bitcast":
        result = inside.get(result.operands[0])
    if result is None:
        return 0
    if result.opcode == "dynamic-update-slice" and result.operands[1] in inside:
        return _bytes(inside[result.operands[1]].shape)
    return _bytes(result.shape)


def _bytes(shape: str) -> int:
    return sum(memory_bytes(shape))
