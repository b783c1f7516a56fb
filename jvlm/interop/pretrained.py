"""A model with its weights and its preprocessing: what every format is read into and written from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jvlm.core.types import Params
from jvlm.data.processor import Processor


@dataclass(frozen=True)
class Pretrained:
    """`model` is a linen module, `params` nested arrays, `state` other collections (batch statistics), by name.

    `config` rebuilds the model: `{"family": ..., **fields}`. `processor` is its preprocessing. `published` is the
    source directory's configuration, kept so that an export carries over what jvlm does not interpret; `generation`
    is its generation_config.json. `trained` are paths of parameters that an adapter trained as they are (biases, a
    head).
    """

    model: Any
    params: Params
    state: Params
    config: dict[str, Any]
    processor: Processor
    published: dict[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
