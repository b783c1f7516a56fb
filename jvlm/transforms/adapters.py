"""Adapters over a whole parameter tree: attach, switch, weigh, merge, unmerge, take off and put on.

The adapters of a tree, apart from their base, are a tree of their own: at each adapted path the leaf with None for its
base, at other paths the arrays that take the place of the base's (biases, a new head). `detach` and `put_on` convert.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax

from jvlm.core import build
from jvlm.core.errors import ConfigError, UserError, nearest
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_paths, unflatten
from jvlm.core.types import Params
from jvlm.transforms.adapter_leaf import Adapter, kernel_of
from jvlm.transforms.adapter_method import Method, names_at
from jvlm.transforms.quantize import quantize_tree


def attach(params: Params, method: Method, key: jax.Array) -> Params:
    """`params` with a fresh adapter on every target; `key` folded with a path's hash initializes the one there.

    Adapters that are there already stay as they are and are no longer trained. ConfigError for a target that matches
    nothing, naming the nearest paths.
    """
    flat = flatten(params)
    targets = set(method.chosen(flat))
    method.trained(flat)  # for its errors
    for path in targets:
        if method.name in names_at(flat[path]):
            raise ConfigError(f"{path} already has an adapter called {method.name!r}; give this one another `name`")

    def put(path: str, leaf: Any) -> Any:
        held = hold(leaf) if isinstance(leaf, Adapter) else leaf
        return method.leaf(path, held, fold(key, path)) if path in targets else held

    return map_paths(put, params)


def build_leaves(
    params: Params, quantization: Mapping[str, Any] | None, method: Method | None, key: jax.Array
) -> Params:
    """`params` as a run trains them: kernels quantized (fields of `quantize_tree`, its patterns as `targets`), then the
    adapters attached, so that they stand on quantized kernels (QLoRA, arXiv:2305.14314).
    """
    if quantization is not None:
        fields = dict(quantization)
        fields |= {"patterns": fields.pop("targets")} if "targets" in fields else {}
        params = build.call(lambda **given: quantize_tree(params, **given), fields, "quantize").params
    return params if method is None else attach(params, method, key)


def fold(key: jax.Array, path: str) -> jax.Array:
    """The key of what stands at `path`."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def hold(leaf: Any) -> Any:
    """A stack of adapters that are not trained."""
    return leaf.replace(held=True, base=hold(leaf.base)) if isinstance(leaf, Adapter) else leaf


def frozen_paths(params: Params, method: Method) -> tuple[str, ...]:
    """Paths of what is not trained beside the adapters, for `freeze.partition`."""
    flat = flatten(params)
    trained = set(method.trained(flat))
    return tuple(path for path, leaf in flat.items() if path not in trained and not isinstance(leaf, Adapter))


def adapter_names(params: Params) -> list[str]:
    """Names of all adapters in a tree, in the order in which they are met."""
    found = [name for leaf in flatten(params).values() for name in names_at(leaf)]
    return list(dict.fromkeys(found))


def activate(params: Params, weights: Mapping[str, float]) -> Params:
    """The same tree with these adapters at these weights and every other one at 0, which computes nothing.

    `{"a": 1.0}` switches to one, `{"a": 1.0, "b": 1.0}` stacks two, `{}` disables all: the base, bit for bit. Biases
    and other arrays that were trained themselves are not switched. ConfigError for an unknown name.
    """
    known = adapter_names(params)
    for name in weights:
        if name not in known:
            raise ConfigError(f"no adapter is called {name!r}; {nearest(name, known)}")

    def weigh(leaf: Any) -> Any:
        if not isinstance(leaf, Adapter):
            return leaf
        return leaf.replace(base=weigh(leaf.base), weight=float(weights.get(leaf.name, 0.0)))

    return map_paths(lambda _, leaf: weigh(leaf), params)


def merge(params: Params) -> Params:
    """Plain arrays that compute what the adapters do at their weights; quantized bases become arrays, too.

    UserError for an adapter that is no change of a kernel (bottleneck, learned context).
    """
    flat = flatten(params)
    for path, leaf in flat.items():
        check_mergeable(path, leaf)
    out = {path: kernel_of(leaf) for path, leaf in flat.items()}
    for path, leaf in flat.items():
        if not isinstance(leaf, Adapter):
            continue
        gain = leaf.gain()
        if gain is not None:
            for at in gained(path, out):
                out[at] = (out[at] * _beside(gain, out[at])).astype(out[at].dtype)
    return unflatten(out)


def unmerge(merged: Params, adapters: Params) -> Params:
    """The base that `merge` made `merged` of, to rounding; `adapters` as `detach` gave them.

    UserError where it cannot be had: an adapter that replaces arrays of the base, a DoRA that was merged elsewhere.
    """
    flat = flatten(merged)
    out = dict(flat)
    for path, leaf in flatten(adapters).items():
        if not isinstance(leaf, Adapter):
            if leaf is not None:
                raise UserError(f"the adapter replaces {path}, whose former value it does not know; use the base")
            continue
        check_mergeable(path, leaf)
        gain = leaf.gain()
        if gain is not None:
            for at in gained(path, out):
                out[at] = (out[at] / _beside(gain, out[at])).astype(out[at].dtype)
        while isinstance(leaf, Adapter):
            out[path] = leaf.unmerge(out[path], path)
            leaf = leaf.base
    return unflatten(out)


def check_mergeable(path: str, leaf: Any) -> None:
    """UserError where an active adapter is no change of a kernel."""
    while isinstance(leaf, Adapter):
        if leaf.weight != 0.0 and not leaf.MERGES:
            kind = type(leaf).__name__.lower()
            raise UserError(f"the {kind} adapter at {path} is no change of a kernel and cannot be merged")
        leaf = leaf.base


def gained(path: str, flat: Mapping[str, Any]) -> list[str]:
    """The kernel at `path` and, where there is one, the bias beside it."""
    bias = path.rpartition("/")[0] + "/bias"
    return [path, bias] if bias in flat else [path]


def _beside(gain: jax.Array, array: jax.Array) -> jax.Array:
    """`gain` [(L), out] shaped for `array` [(L), ..., out]."""
    return gain.reshape(*gain.shape[:-1], *(1,) * (array.ndim - gain.ndim), gain.shape[-1])


def detach(params: Params, trained: Mapping[str, Any] | None = None, *, remember: bool = True) -> tuple[Params, Params]:
    """(base, adapters): the innermost bases, and the adapters apart from them.

    `trained` maps further paths to arrays that belong to the adapters (biases, heads). To `remember` is to keep what
    `unmerge` needs of the base, which is right where the leaves stand on their base and not on a merged one.
    """
    base: dict[str, Any] = {}
    adapters: dict[str, Any] = {}
    for path, leaf in flatten(params).items():
        base[path] = innermost(leaf)
        if isinstance(leaf, Adapter):
            adapters[path] = without_base(leaf, remember)
    return unflatten(base), unflatten(adapters | dict(trained or {}))


def innermost(leaf: Any) -> Any:
    """What the last adapter stands on."""
    return innermost(leaf.base) if isinstance(leaf, Adapter) else leaf


def without_base(leaf: Any, remember: bool) -> Any:
    """A stack of adapters over None."""
    if not isinstance(leaf, Adapter):
        return None
    leaf = leaf.remember() if remember else leaf
    return leaf.replace(base=without_base(leaf.base, remember))


def put_on(base: Params, adapters: Params) -> Params:
    """`base` with `adapters` over it, over those that it has. UserError where a path is missing or a shape differs."""
    flat = flatten(base)
    for path, leaf in flatten(adapters).items():
        if path not in flat:
            raise UserError(f"the adapter has {path!r}, which the base lacks; {nearest(path, flat)}")
        flat[path] = over(path, flat[path], leaf) if isinstance(leaf, Adapter) else same(path, flat[path], leaf)
    return unflatten(flat)


def over(path: str, base: Any, leaf: Any) -> Any:
    """The adapters of `leaf`, which has no base, over `base`."""
    leaf = leaf.replace(base=base if leaf.base is None else over(path, base, leaf.base))
    wanted = tuple(base.shape)
    if not leaf.fits():
        raise UserError(f"the adapter at {path} does not fit the base, whose kernel is {list(wanted)}")
    return leaf


def same(path: str, old: Any, new: Any) -> Any:
    """`new` in place of `old`, whose shape it must have."""
    if tuple(old.shape) != tuple(new.shape) or isinstance(old, Leaf):
        raise UserError(f"the adapter replaces {path} by {list(new.shape)}, but it is {list(old.shape)} in the base")
    return new
