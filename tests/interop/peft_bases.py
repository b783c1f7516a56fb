"""Reference models under peft's adapters, and ours of the same directories."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jvlm.data.processor import Processor
from jvlm.interop import peft
from jvlm.interop.hf import TABLES
from jvlm.interop.peft_sites import sites
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.safetensors import SafetensorsReader
from jvlm.interop.table import Table
from tests.interop import directories
from tests.interop.hf_cases import Case
from tests.reference import torch
from tests.reference_peft import peft as reference_peft


@dataclass(frozen=True)
class Base:
    """A reference model, and ours of the directory that it saved."""

    case: Case
    reference: Any
    table: Table
    ours: Pretrained
    modules: list[str]


def opened(case: Case, directory: Path) -> Base:
    reference = case.build()
    reference.save_pretrained(directory)
    table = TABLES[case.table]
    model, variables = directories.load(directory, table)
    params = variables.pop("params")
    published = directories.read_config(directory)
    ours = Pretrained(model, params, variables, {"family": table.family}, Processor(), published)
    found, _ = sites(table.rules(model), directories.shapes(model))
    named = dict(reference.named_modules())
    groups = {name for name, module in named.items() if getattr(module, "groups", 1) > 1}
    return Base(case, reference, table, ours, [name for name in found if name in named and name not in groups])


def adapted(base: Base, config: Any, seed: int = 0) -> Any:
    """The reference with an adapter whose arrays are random."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = reference_peft.get_peft_model(copy.deepcopy(base.reference), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(model: Any, directory: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(directory)
    return directory


def tensors(directory: Path) -> dict[str, np.ndarray]:
    """What an adapter's directory holds, by name."""
    reader = SafetensorsReader(directory, peft.WEIGHTS)
    return {name: reader.read(name) for name in reader.names()}
