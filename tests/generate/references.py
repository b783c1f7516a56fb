"""Language models of transformers and ours with the same random weights, and their generation."""

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

from jvlm.interop.hf import TABLES
from tests.interop import directories
from tests.interop.decoder_cases import DECODERS
from tests.reference import torch

END = 7
NAMES = ["llama", "mistral, window", "gemma2, caps and scale", "opt", "gpt2", "qwen2", "t5", "bert decoder"]


@functools.cache
def pair(name: str) -> tuple[Any, Any, dict[str, Any]]:
    """(reference, our model, our variables) of a case; both have room for 40 tokens."""
    case = DECODERS[name]
    config = copy.deepcopy(case.config)
    for field in ("max_position_embeddings", "n_positions"):
        if field in config.to_dict():
            setattr(config, field, 40)
    # Wide weights, so that the texts vary.
    torch.manual_seed(3)
    reference = case.cls(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        model, variables = directories.load(Path(folder), TABLES[case.table])
        if case.table == "t5":
            model = model.clone(length=40)
    return reference, model, variables


def generate(reference: Any, prompt: list[int], new: int, **options: Any) -> list[int]:
    """New tokens of one prompt, the end token included where it was reached."""
    given = torch.tensor([prompt])
    options = dict(eos_token_id=END, pad_token_id=0, do_sample=False) | options
    out = reference.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=new, **options)
    start = 1 if reference.config.is_encoder_decoder else len(prompt)
    tokens = out[0, start:].tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens
