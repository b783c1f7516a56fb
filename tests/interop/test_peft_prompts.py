"""Prefix and prompt tuning of language models equal peft's: logits, gradients, directories in both directions."""

import copy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import UserError
from jvlm.core.tree import flatten
from jvlm.interop import peft, peft_write
from jvlm.transforms.adapters import attach
from jvlm.transforms.context import prompted
from jvlm.transforms.freeze import combine, partition
from jvlm.transforms.methods import make_method
from tests.interop.decoder_cases import DECODERS
from tests.interop.peft_bases import Base, adapted, opened, saved, tensors
from tests.reference import torch
from tests.reference_peft import peft as reference_peft

# Grouped heads and rotary positions; a window narrower than prefix and text; learned positions with an offset and
# without; embeddings multiplied by a constant.
RUNS = [
    ("prefix", "llama"),
    ("prefix", "mistral, window"),
    ("prefix", "opt"),
    ("prompt", "gpt2"),
    ("prompt", "gemma"),
]
LENGTH, TOKENS = 4, 6


def config_of(kind: str) -> Any:
    cls = reference_peft.PrefixTuningConfig if kind == "prefix" else reference_peft.PromptTuningConfig
    return cls(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)


def given(base: Base) -> np.ndarray:
    return np.random.default_rng(0).integers(1, base.ours.model.vocab_size, (2, TOKENS)).astype(np.int32)


def logits(model: Any, tokens: np.ndarray) -> Any:
    return model(input_ids=torch.from_numpy(tokens).long()).logits[:, -TOKENS:]


@pytest.mark.parametrize(("kind", "case"), RUNS)
def test_a_learned_prompt_is_pefts_and_opens_both_ways(kind: str, case: str, tmp_path: Path) -> None:
    base = opened(DECODERS[case], tmp_path / "base")
    reference, tokens = adapted(base, config_of(kind)), given(base)
    wanted = logits(reference, tokens)
    torch.sin(wanted).sum().backward()
    ours = peft.load(saved(reference, tmp_path / "theirs"), base.ours)
    trained, frozen = partition(
        ours.params, [p for p, leaf in flatten(ours.params).items() if not hasattr(leaf, "base")]
    )

    def objective(trained: Any) -> tuple[jax.Array, jax.Array]:
        params = combine(trained, frozen)
        out: Any = ours.model.apply({"params": params}, **prompted(params, dict(tokens=jnp.asarray(tokens))))
        y = out.logits[:, -TOKENS:]
        return jnp.sin(y).sum(), y

    (_, found), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(trained)
    np.testing.assert_allclose(found, wanted.detach().numpy(), atol=1e-5, rtol=1e-5)
    assert np.abs(logits(base.reference, tokens).detach().numpy() - wanted.detach().numpy()).max() > 1e-2

    peft_write.save(replace(ours, params=combine(grads, frozen)), tmp_path / "grads")
    (theirs,) = (p.grad.numpy() for p in reference.parameters() if p.grad is not None)
    (written,) = tensors(tmp_path / "grads").values()
    np.testing.assert_allclose(written, theirs, atol=1e-5 * max(1.0, np.abs(theirs).max()), rtol=1e-5)

    peft_write.save(ours, tmp_path / "ours")
    before, after = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert {name: x.tobytes() for name, x in before.items()} == {name: x.tobytes() for name, x in after.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UserWarning)  # peft's way to say that keys are missing
        again = reference_peft.PeftModel.from_pretrained(copy.deepcopy(base.reference), tmp_path / "ours").eval()
    np.testing.assert_allclose(logits(again, tokens).detach().numpy(), wanted.detach().numpy(), atol=1e-6)


def test_a_prefix_of_another_model_is_refused_with_both_sizes(tmp_path: Path) -> None:
    base = opened(DECODERS["gpt2"], tmp_path / "base")
    params = attach(base.ours.params, make_method(dict(kind="prefix", length=2)), jax.random.key(0))
    peft_write.save(replace(base.ours, params=params), tmp_path / "prefix")
    other = opened(DECODERS["llama"], tmp_path / "other")
    with pytest.raises(UserError, match=r"a prefix is 128 numbers, but the model has 4 keys and values of 16"):
        peft.load(tmp_path / "prefix", other.ours)
