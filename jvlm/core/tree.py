"""Parameter trees as flat dicts of path strings, and maps chosen by path patterns.

A path joins dict keys with `/`: `image/blocks/attn/query/kernel`. A pattern is a shell-style glob over whole paths
in which `*` also crosses `/`: `image/*`, `*/attn/query/kernel`, `*bias`. A pattern that matches nothing is an error:
a rule that silently does nothing is the commonest way to train the wrong thing.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from typing import Any

from flax import traverse_util

from jvlm.core.errors import ConfigError, nearest
from jvlm.core.types import Params


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dict to `{path: leaf}`; weight leaves (`core/leaves.py`) stay whole."""
    return traverse_util.flatten_dict(dict(tree), sep="/")


def unflatten(flat: Mapping[str, Any]) -> Params:
    """`{path: leaf}` back to a nested dict."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def matcher(pattern: str) -> Callable[[str], bool]:
    """A predicate over whole paths for one glob `pattern`."""
    compiled = re.compile(translate(pattern))
    return lambda path: compiled.match(path) is not None


def select(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The paths that any pattern matches, in tree order.

    Raises ConfigError naming the pattern and the nearest paths when one matches nothing.
    """
    paths = list(paths)
    chosen: set[str] = set()
    for pattern in patterns:
        match = matcher(pattern)
        hits = [path for path in paths if match(path)]
        if not hits:
            raise ConfigError(f"pattern {pattern!r} matches no parameter; {nearest(pattern, paths, count=3)}")
        chosen.update(hits)
    return [path for path in paths if path in chosen]


def label(paths: Iterable[str], rules: Iterable[tuple[str, Any]], default: Any) -> dict[str, Any]:
    """Value of the first rule `(pattern, value)` that matches each path, else `default`.

    Raises ConfigError for a pattern that matches nothing (one shadowed by an earlier rule is allowed).
    """
    paths, rules = list(paths), list(rules)
    for pattern, _ in rules:
        select(paths, [pattern])
    matchers = [(matcher(pattern), value) for pattern, value in rules]
    return {path: next((value for match, value in matchers if match(path)), default) for path in paths}


def map_paths(fn: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Params:
    """A tree of the same structure with `fn(path, leaf)` at each leaf."""
    return unflatten({path: fn(path, leaf) for path, leaf in flatten(tree).items()})


def map_arrays(fn: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Params:
    """A tree of the same structure with `fn(path, array)` at each array; None stays.

    The arrays of a weight leaf have the leaf's path and their own name: `image/proj/kernel/a`.
    """
    import jax

    def named(path: str, leaf: Any) -> Any:
        def at(keys: tuple[Any, ...], array: Any) -> Any:
            return fn("/".join([path, *(jax.tree_util.keystr((key,), simple=True) for key in keys)]), array)

        return jax.tree_util.tree_map_with_path(at, leaf)

    return map_paths(named, tree)


def count(tree: Mapping[str, Any]) -> int:
    """Number of scalars in a tree of arrays or of `jax.ShapeDtypeStruct`."""
    import jax

    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
