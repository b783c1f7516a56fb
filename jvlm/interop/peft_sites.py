"""Where peft's modules lie in our parameters: one line of a family's table for each, seen layer by layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jvlm.core.bijections import IDENTITY, Bijection
from jvlm.core.mapping import Rule, published_names


@dataclass(frozen=True)
class Site:
    """A published module and the kernel or table of ours that holds its weight, `layer` None outside of stacks.

    The methods turn an adapter's arrays of one layer into peft's and back, by the bijection of the weight itself: a
    thin factor is a kernel with few outputs. Of a fused module that holds several kernels, equal blocks of outputs,
    `paths` are all of them, and a site is what `parts` gives: one kernel, its `block`.
    """

    module: str
    path: str
    layer: int | None
    fn: Bijection
    paths: tuple[str, ...] = ()
    block: int = 0

    @property
    def fused(self) -> bool:
        return len(self.paths) > 1

    def parts(self) -> list["Site"]:
        """The site of each kernel in the module."""
        return [replace(self, path=path, block=index) for index, path in enumerate(self.paths)]

    def own(self, outputs: np.ndarray) -> np.ndarray:
        """This kernel's part of what has the module's outputs first."""
        return np.split(outputs, len(self.paths))[self.block] if self.fused else outputs

    @property
    def table(self) -> bool:
        return self.path.endswith("embedding")

    @property
    def transposed(self) -> bool:
        """Whether the published weight is [in, out] (GPT-2's Conv1D), where peft's factors still are as elsewhere."""
        return (self.fn is IDENTITY or self.fn.name.startswith("columns")) and not self.table

    @property
    def thin(self) -> bool:
        """Whether peft's factors are ours transposed, without the weight's own bijection."""
        return self.table or self.transposed or self.fused

    def factors(self) -> tuple[str, str]:
        """Names of the two factors after the module's."""
        if self.table:
            return "lora_embedding_A", "lora_embedding_B"
        return "lora_A.weight", "lora_B.weight"

    def save_factors(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Our a [..., in, r] and b [r, out] as peft's A and B."""
        if self.thin:
            return a.T, b.T
        first = self.fn.save(a)
        return first, b.T[:, :, None, None] if first.ndim == 4 else b.T

    def load_factors(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The inverse."""
        if self.thin:
            return a.T, self.own(b).T
        return self.fn.load(a)[0], b.reshape(b.shape[:2]).T

    def save_vector(self, vector: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
        """A vector over outputs; with `like`, peft's A, in the shape that a convolution's has."""
        return vector[None, :, None, None] if like is not None and like.ndim == 4 else vector

    def channels(self, shape: tuple[int, ...]) -> int | None:
        """How many input channels the published weight of a kernel of this shape has, if that is a convolution."""
        if self.thin:
            return None
        thin = self.fn.save(np.zeros((*shape[:-1], 1), np.float32))
        return int(np.shape(thin)[1]) if thin.ndim == 4 else None


def sites(rules: Iterable[Rule], shapes: Mapping[str, Any]) -> tuple[dict[str, Site], dict[str, str]]:
    """(sites by module, modules that have none and why) of a table over flat parameters.

    What `torch.nn.MultiheadAttention` holds has none: the fused projection is no module, and an adapter of the output
    projection is never called.
    """
    rules = list(rules)
    found: dict[str, Site] = {}
    refused: dict[str, str] = {}
    fused = {r.name.rpartition(".in_proj_weight")[0] for r in rules if r.name.endswith(".in_proj_weight")}
    for r in rules:
        if not r.paths or r.paths[0].rpartition("/")[2] not in ("kernel", "embedding"):
            continue
        module, first = r.name.removesuffix(".weight"), r.paths[0]
        blocks = len(r.paths) > 1 and r.fn.name.startswith(("columns", "split")) and r.name.endswith(".weight")
        names = published_names(r, shapes)
        for index, name in enumerate(names):
            at = name.removesuffix(".weight")
            if len(r.paths) > 1 and not blocks:
                refused[at] = f"{r.name} holds {len(r.paths)} kernels in one tensor"
            elif module.rpartition(".")[0] in fused and module.endswith(".out_proj"):
                refused[at] = f"{at} is called inside torch.nn.MultiheadAttention, past any adapter"
            else:
                found[at] = Site(at, first, index if r.stacked else None, r.fn, r.paths)
    return found, refused
