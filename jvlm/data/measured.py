"""Tables of what a run must know of every sample before its first step: measured once, and kept."""

import concurrent.futures
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int32

from jvlm.core.errors import UserError
from jvlm.core.files import write_atomic
from jvlm.data.image_ops import BadPicture
from jvlm.data.sources import BadSample, digest

SHOWN = 10
BLOCK = 256
"""Samples that one thread measures at a time."""


class Measured(NamedTuple):
    """One sample: its numbers, or why there are none."""

    values: tuple[int, ...] = ()
    cause: str = ""
    message: str = ""


class Table(NamedTuple):
    """`values` [n, k], zeros for a sample that cannot be used; `bad` counts those by cause, `first` names the first of
    each cause."""

    values: Int32[np.ndarray, "n k"]
    bad: dict[str, int]
    first: dict[str, list[str]]


def measured(one: Callable[[int], tuple[int, ...]], index: int) -> Measured:
    """What `one` says of sample `index`; what makes it unusable is caught, a UserError of another kind is not."""
    try:
        return Measured(one(index))
    except (BadSample, BadPicture) as error:
        return Measured(cause=error.cause, message=f"sample {index}: {error}")
    except UserError:
        raise
    except Exception as error:  # the same net as in training, under the same names
        cause = "read error" if isinstance(error, OSError) else "unexpected error"
        return Measured(cause=cause, message=f"sample {index}: {type(error).__name__}: {error}")


def tabulate(found: Sequence[Measured], columns: int) -> Table:
    """The samples' numbers as a table of `columns`, in the order given."""
    values = np.zeros((len(found), columns), np.int32)
    bad: dict[str, int] = {}
    first: dict[str, list[str]] = {}
    for row, one in zip(values, found):
        if not one.cause:
            row[:] = one.values
            continue
        bad[one.cause] = bad.get(one.cause, 0) + 1
        if len(shown := first.setdefault(one.cause, [])) < SHOWN:
            shown.append(one.message)
    return Table(values, dict(sorted(bad.items())), first)


def measure_all(
    one: Callable[[int], tuple[int, ...]],
    count: int,
    columns: int,
    name: str,
    cache: epath.PathLike | None,
    *key: str,
) -> Table:
    """The table of `count` samples, kept as `name` in the folder `cache` under `key`, what the numbers depend on."""
    path = None
    if cache is not None:
        path = epath.Path(cache) / f"{name}-{digest(columns, *key)[:16]}.npz"
        if path.exists():
            return _load(path.read_bytes())

    def block(start: int) -> Table:
        return tabulate([measured(one, i) for i in range(start, min(start + BLOCK, count))], columns)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        table = _joined(list(pool.map(block, range(0, count, BLOCK))), columns)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _dump(table))
    return table


def refuse(table: Table, what: str, max_bad: float, min_bad: int) -> None:
    """UserError when too many samples of a table, which are `what`, cannot be used."""
    total = sum(table.bad.values())
    if total >= min_bad and total > max_bad * len(table.values):
        causes = ", ".join(f"{n} {cause}" for cause, n in table.bad.items())
        first = next(iter(table.first.values()))[0]
        raise UserError(
            f"{total} of {len(table.values)} {what} cannot be used ({causes}), more than {max_bad:.1%}; the "
            f"first: {first}; repair them (jvlm data check lists them) or raise config.pipeline.max_bad"
        )


def _joined(tables: Sequence[Table], columns: int) -> Table:
    bad: dict[str, int] = {}
    first: dict[str, list[str]] = {}
    for table in tables:
        for cause, n in table.bad.items():
            bad[cause] = bad.get(cause, 0) + n
            shown = first.setdefault(cause, [])
            shown += table.first[cause][: SHOWN - len(shown)]
    values = np.concatenate([np.zeros((0, columns), np.int32), *(table.values for table in tables)])
    return Table(values, dict(sorted(bad.items())), first)


def _dump(table: Table) -> bytes:
    out = io.BytesIO()
    report = np.asarray(json.dumps([table.bad, table.first]))
    np.savez_compressed(out, allow_pickle=False, values=table.values, report=report)
    return out.getvalue()


def _load(data: bytes) -> Table:
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        bad, first = json.loads(str(found["report"]))
        return Table(found["values"], bad, first)
