"""The identity of a tree of parameters: what an adapter's checkpoint says about the base that it leaves out."""

import hashlib
import json
from typing import Any

from jvlm.checkpoint.integrity import leaf_sum
from jvlm.checkpoint.leaves import name_leaves


def identity(params: Any) -> str:
    """64 hexadecimal digits that change with any path, shape, dtype or bit of `params`, and not with its sharding."""
    leaves = name_leaves(params)
    sums = {name: leaf_sum(leaf) for name, leaf in leaves.items()}  # all at work before the first is waited for
    content = {name: [list(leaf.shape), str(leaf.dtype), int(sums[name])] for name, leaf in leaves.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
