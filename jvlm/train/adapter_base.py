"""Adapters and the base they stand on, which lies in a directory of its own: found, checked, put together again."""

from collections.abc import Mapping
from typing import Any

import jax

from jvlm.checkpoint.identity import identity
from jvlm.checkpoint.initialize import Initialized, initialize_from
from jvlm.core.errors import UserError
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_arrays, unflatten
from jvlm.core.types import Params
from jvlm.transforms.adapters import build_leaves, hold
from jvlm.transforms.methods import make_method


def start_from(target: Params, source: Mapping[str, Any]) -> Initialized:
    """`initialize_from` on the plain arrays; the source's weight leaves (quantized, adapted) are taken as they are."""
    wanted, given = flatten(target), flatten(source)
    taken = {path: leaf for path, leaf in given.items() if isinstance(leaf, Leaf) and path in wanted}
    for path, leaf in taken.items():
        if tuple(leaf.shape) != tuple(wanted[path].shape):
            raise UserError(f"leaf {path}: the source is {list(leaf.shape)}, the model {list(wanted[path].shape)}")
    rest = {path: leaf for path, leaf in wanted.items() if path not in taken}
    plain = {path: leaf for path, leaf in given.items() if not isinstance(leaf, Leaf)}
    whole = initialize_from(unflatten(rest), unflatten(plain))
    leaves = {path: hold(leaf) for path, leaf in taken.items()}
    flat = flatten(whole.params)
    params = unflatten({path: leaves[path] if path in leaves else flat[path] for path in wanted})
    return whole._replace(params=params, copied=[*whole.copied, *leaves])


def check_base(described: Mapping[str, Any], source: Params, where: Any) -> None:
    """UserError unless `source`, the parameters of the base directory, are those that the adapter was trained on."""
    found = identity(source)
    if found != described["identity"]:
        raise UserError(
            f"{described['base']} is not the base that the adapter in {where} was trained on (identity {found[:12]}, "
            f"not {described['identity'][:12]}); put the original back, or name its place in model.json"
        )


def assemble(shapes: Params, described: Mapping[str, Any], stored: Mapping[str, Any], source: Params | None) -> Params:
    """The parameters of an adapter run from what `model.json` says of it, the arrays of its checkpoint, by path, and
    its base. `source` None means that the checkpoint holds the base, too.
    """
    method, key = make_method(described["method"]), jax.random.key(0)
    if source is None:
        params = jax.eval_shape(lambda params: build_leaves(params, described["quantize"], method, key), shapes)
    else:
        params = build_leaves(start_from(shapes, source).params, described["quantize"], method, key)
    return map_arrays(lambda path, array: stored.get(path, array), params)


def trained_plain(params: Params, method: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of what an adapter of this configuration trains beside its leaves."""
    return tuple(make_method(method).trained(flatten(params)))
