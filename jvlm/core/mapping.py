"""One table, both directions: published tensor names and layouts, and our parameter paths.

A `Rule` says that a published tensor is one or several of our arrays under a bijection. `{}` in a published name
runs over the layers of a stack, whose arrays carry a leading layer axis. `load` and `save` walk the same list, and
both are total: an unmapped tensor, a rule that matches nothing and a leftover parameter are errors that name it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jvlm.core.bijections import IDENTITY, Bijection
from jvlm.core.errors import UserError, nearest
from jvlm.core.leaves import Leaf
from jvlm.core.sharding import place_leaf
from jvlm.core.tree import matcher

Index = tuple[slice, ...]


@dataclass(frozen=True)
class Rule:
    """`name` as published, our `paths` (several for a fused tensor), the bijection between them.

    The layers of our stack are the published ones from `start` on, `step` apart.
    """

    name: str
    paths: tuple[str, ...]
    fn: Bijection = IDENTITY
    step: int = 1
    start: int = 0

    @property
    def stacked(self) -> bool:
        return "{}" in self.name

    def of_layer(self, layer: int) -> str:
        """The published name of a layer of our stack."""
        return self.name.replace("{}", str(self.start + layer * self.step))


def rule(name: str, paths: str | tuple[str, ...], fn: Bijection = IDENTITY) -> Rule:
    """A `Rule`; `paths` may be one string."""
    return Rule(name, (paths,) if isinstance(paths, str) else paths, fn)


def constant(name: str, value: np.ndarray) -> Rule:
    """A published tensor that carries nothing: `value` where it is written, skipped (or absent) where it is read."""
    return Rule(name, (), Bijection("constant", lambda _: (), lambda: value))


def repeated(name: str) -> Rule:
    """A published tensor that repeats another (a tied head): skipped where it is read, never written."""
    return Rule(name, (), Bijection("repeated", lambda _: (), lambda: np.zeros(0)))


def nest(rules: Iterable[Rule], name: str, path: str) -> list[Rule]:
    """The same rules with a prefix on the published names and one on our paths."""
    return [replace(r, name=name + r.name, paths=tuple(path + p for p in r.paths)) for r in rules]


@runtime_checkable
class Reader(Protocol):
    """Random access to published tensors."""

    def names(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str, index: Index | None = None) -> np.ndarray: ...


@runtime_checkable
class LeafReader(Protocol):
    """A reader of a quantized file: `leaf` is what a rule's tensors are together, None where they are read densely."""

    def leaf(self, rule: Rule, shapes: Mapping[str, Any]) -> Leaf | None: ...


def check(rules: Sequence[Rule], shapes: Mapping[str, Any], names: Iterable[str], ignore: Iterable[str] = ()) -> None:
    """Raises UserError unless tensors `names`, `rules` and parameters `shapes` (flat) cover each other exactly."""
    ignored = [matcher(pattern) for pattern in ignore]
    have = {name for name in names if not any(match(name) for match in ignored)}
    have -= {r.name for r in rules if not r.paths}
    wanted: set[str] = set()
    covered: set[str] = set()
    for r in rules:
        for path in r.paths:
            if path not in shapes:
                raise UserError(f"rule {r.name!r} writes {path!r}, which the model lacks; {nearest(path, shapes)}")
            covered.add(path)
        if r.paths:
            wanted.update(published_names(r, shapes))
    if left := sorted(set(shapes) - covered):
        raise UserError(f"no rule covers the parameter {left[0]!r}" + _more(left))
    if missing := sorted(wanted - have):
        raise UserError(f"the tensor {missing[0]!r} is missing" + _more(missing))
    if extra := sorted(have - wanted):
        raise UserError(f"the tensor {extra[0]!r} has no place in the model" + _more(extra))


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def published_names(r: Rule, shapes: Mapping[str, Any]) -> list[str]:
    """The published names that a rule stands for: one, or one a layer."""
    if not r.stacked:
        return [r.name]
    return [r.of_layer(layer) for layer in range(shapes[r.paths[0]].shape[0])]


def load(
    rules: Sequence[Rule],
    shapes: Mapping[str, Any],
    reader: Reader,
    *,
    dtype: Any | None = None,
    shardings: Mapping[str, jax.sharding.NamedSharding] | None = None,
    ignore: Iterable[str] = (),
) -> dict[str, Any]:
    """Flat parameters read through `rules`, checked by `check`: arrays, or leaves where a `LeafReader` has one.

    `shapes` are flat abstract parameters. `dtype` None keeps what is stored. With `shardings` each device's part is
    read alone; at any moment one (stacked) parameter beyond those already placed is in host memory.
    """
    check(rules, shapes, reader.names(), ignore)
    out: dict[str, Any] = {}
    for r in rules:
        if isinstance(reader, LeafReader) and (leaf := reader.leaf(r, shapes)) is not None:
            (path,) = r.paths
            if leaf.shape != tuple(shapes[path].shape):
                raise UserError(f"{r.name!r} is {list(leaf.shape)}, but {path!r} needs {list(shapes[path].shape)}")
            out[path] = leaf if shardings is None else place_leaf(leaf, shardings[path])
            continue
        for position, path in enumerate(r.paths):
            shape = tuple(shapes[path].shape)
            build = _Builder(r, position, shape, reader, dtype, path)
            if shardings is None:
                out[path] = jax.numpy.asarray(build(tuple(slice(None) for _ in shape)))
            else:
                out[path] = jax.make_array_from_callback(shape, shardings[path], build)
    return out


@dataclass(frozen=True)
class _Builder:
    """Builds any region of one of our arrays from the published tensors."""

    rule: Rule
    position: int
    shape: tuple[int, ...]
    reader: Reader
    dtype: Any
    path: str

    def __call__(self, index: Any) -> np.ndarray:
        if not self.rule.stacked:
            return self._layer(self.rule.name, index, self.shape)
        layers = range(*index[0].indices(self.shape[0]))
        names = [self.rule.of_layer(layer) for layer in layers]
        first = self._layer(names[0], index[1:], self.shape[1:])
        out = np.empty((len(names), *first.shape), first.dtype)
        out[0] = first
        for at, name in enumerate(names[1:], 1):
            layer = self._layer(name, index[1:], self.shape[1:])
            # Layers of two precisions make a stack of the wider one: nothing is rounded without a word.
            if layer.dtype != out.dtype:
                out = out.astype(np.promote_types(out.dtype, layer.dtype))
            out[at] = layer
        return out

    def _layer(self, name: str, index: Index, shape: tuple[int, ...]) -> np.ndarray:
        region = self.rule.fn.region
        if region is not None and self.reader.shape(name) == region(shape):
            array = self.rule.fn.load(self.reader.read(name, region(index)))[0]
        else:
            try:
                whole = self.rule.fn.load(self.reader.read(name))[self.position]
            except ValueError:  # a reshape, a split or a transpose of what has another shape
                whole = None
            if whole is None or whole.shape != shape:
                raise UserError(
                    f"the tensor {name!r} has shape {self.reader.shape(name)}, "
                    f"but {self.path!r} needs {shape}: the configuration and the weights disagree"
                )
            array = whole[index]
        array = np.asarray(array)  # a scalar that was indexed is no array
        return array if self.dtype is None else array.astype(self.dtype)


def save(rules: Sequence[Rule], flat: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Published (name, tensor) pairs, one at a time, from flat parameters (weight leaves must be materialized)."""
    for r in rules:
        if r.fn.name == "repeated":
            continue
        arrays = [np.asarray(flat[path]) for path in r.paths]
        if r.stacked:
            for layer, name in enumerate(published_names(r, flat)):
                yield name, np.asarray(r.fn.save(*(array[layer] for array in arrays)), order="C")
        else:
            yield r.name, np.asarray(r.fn.save(*arrays), order="C")
