"""What a published format is to us: a configuration, tensor names, and nothing else."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jvlm.core.errors import UserError
from jvlm.core.mapping import Rule
from jvlm.core.tree import flatten, unflatten

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One published format of one family.

    `fields` reads a published configuration into the family's fields; `config` writes a model's configuration;
    `rules` gives the tensor table of a model. `ignore` are tensor patterns that carry no information (buffers),
    `renames` (regular expression, replacement) pairs that turn older names into current ones when they are read.
    `settle` completes a configuration by the names of the stored tensors, where it does not say all.
    """

    family: str
    fields: Callable[[Config], dict[str, Any]]
    config: Callable[[Any], dict[str, Any]]
    rules: Callable[[Any], Sequence[Rule]]
    ignore: tuple[str, ...] = ("*position_ids",)
    renames: tuple[tuple[str, str], ...] = ()
    settle: Callable[[Config, Collection[str]], Config] = lambda config, names: config


def require(config: Config, key: str, *allowed: Any) -> None:
    """Raises UserError unless `config[key]`, where given, is one of the values that jvlm implements."""
    if key in config and config[key] not in allowed:
        wanted = " or ".join(repr(value) for value in allowed)
        raise UserError(f"config.json has {key} = {config[key]!r}; jvlm implements {wanted}")


def single(value: Any, key: str) -> int:
    """A size given as an int or as an equal pair."""
    if isinstance(value, int):
        return value
    first, *rest = value
    if any(other != first for other in rest):
        raise UserError(f"config.json has {key} = {list(value)}; jvlm implements square ones")
    return int(first)


def size(value: Any) -> int | tuple[int, int]:
    """A picture size given as an int or a pair (height, width)."""
    if isinstance(value, int):
        return value
    return single(value, "image_size") if value[0] == value[1] else (int(value[0]), int(value[1]))


def unsize(value: int | tuple[int, int]) -> int | list[int]:
    """The inverse of `size`."""
    return value if isinstance(value, int) else list(value)


STATE_COLLECTIONS = ("batch_stats", "codebooks")


def variables_flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What a table's rules see of `{"params": ..., **state}`: parameter paths as they are, paths of state prefixed by
    their collection (`batch_stats/image_tower/...`).
    """
    flat: dict[str, Any] = {}
    for collection, tree in variables.items():
        if collection != "params" and collection not in STATE_COLLECTIONS:
            raise ValueError(f"collection {collection!r} is neither params nor one of {STATE_COLLECTIONS}")
        prefix = "" if collection == "params" else f"{collection}/"
        flat |= {prefix + path: leaf for path, leaf in flatten(tree).items()}
    return flat


def variables_nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `variables_flat`: `{"params": ..., **state}`, collections without leaves left out."""
    out: dict[str, dict[str, Any]] = {"params": {}}
    for path, leaf in flat.items():
        head, _, rest = path.partition("/")
        if head in STATE_COLLECTIONS:
            out.setdefault(head, {})[rest] = leaf
        else:
            out["params"][path] = leaf
    return {collection: unflatten(leaves) for collection, leaves in out.items()}
