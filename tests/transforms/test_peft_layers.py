"""Adapter leaves equal peft's layers on the same weights: outputs, gradients of the adapter, merged weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import leaves
from jvlm.transforms.adapters import merge
from jvlm.transforms.ia3 import Ia3
from jvlm.transforms.lora import Lora
from tests.reference import torch
from tests.reference_peft import peft

KINDS: dict[str, dict[str, Any]] = {
    "lora": dict(),
    "rslora": dict(use_rslora=True),
    "dora": dict(use_dora=True),
}


class Net(torch.nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x)


def made(layer: Any, config: Any) -> Any:
    """A peft model over one layer, every array of it random."""
    torch.manual_seed(0)
    model = peft.get_peft_model(Net(layer), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def ours(x: Any) -> jax.Array:
    return jnp.asarray(x.detach().numpy())


def with_bias(y: jax.Array, kernel: Any, bias: Any) -> jax.Array:
    return leaves.after(y if bias is None else y + bias, kernel)


def lora_of(layer: Any, kernel: jax.Array, a: jax.Array, b: jax.Array) -> Lora:
    vector = getattr(layer, "lora_magnitude_vector", {})
    magnitude = ours(vector["default"].weight).reshape(-1) if vector else None
    return Lora(kernel, a, b, jnp.float32(layer.scaling["default"]), magnitude)


def linear(kind: str) -> tuple[Any, Any, Any, Any, Any]:
    """(peft model, its input, our leaf, our run, from our leaf's arrays to theirs)."""
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], **KINDS[kind])
    model = made(torch.nn.Linear(10, 7), config)
    layer = model.base_model.model.layer
    leaf = lora_of(
        layer,
        ours(layer.base_layer.weight).T,
        ours(layer.lora_A["default"].weight).T,
        ours(layer.lora_B["default"].weight).T,
    )
    bias = ours(layer.base_layer.bias)
    x = torch.randn(5, 3, 10)
    return model, x, leaf, lambda leaf, x: with_bias(leaves.matmul(x, leaf), leaf, bias), lambda k: k.T


def conv(kind: str) -> tuple[Any, Any, Any, Any, Any]:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], **KINDS[kind])
    model = made(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), config)
    layer = model.base_model.model.layer

    def hwio(w: Any) -> jax.Array:
        return ours(w).transpose(2, 3, 1, 0)

    leaf = lora_of(
        layer,
        hwio(layer.base_layer.weight),
        hwio(layer.lora_A["default"].weight),
        hwio(layer.lora_B["default"].weight)[0, 0],
    )
    bias = ours(layer.base_layer.bias)

    def run(leaf: Any, x: jax.Array) -> jax.Array:
        y = leaves.conv(x.transpose(0, 2, 3, 1), leaf, (2, 2), ((1, 1), (1, 1)))
        return with_bias(y, leaf, bias).transpose(0, 3, 1, 2)

    return model, torch.randn(2, 3, 9, 9), leaf, run, lambda k: k.transpose(3, 2, 0, 1)


def embedding(kind: str) -> tuple[Any, Any, Any, Any, Any]:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["layer"], **KINDS[kind])
    model = made(torch.nn.Embedding(11, 6), config)
    layer = model.base_model.model.layer
    leaf = lora_of(
        layer,
        ours(layer.base_layer.weight),
        ours(layer.lora_embedding_A["default"]).T,
        ours(layer.lora_embedding_B["default"]).T,
    )
    x = torch.arange(11).reshape(1, 11)
    return model, x, leaf, lambda leaf, x: leaves.take(leaf, x, jnp.float32), lambda k: k


def theirs(model: Any, x: Any) -> tuple[Any, dict[str, Any]]:
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    (y * weights).sum().backward()
    return y.detach().numpy(), {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [linear, conv, embedding])
def test_lora_of_a_layer_equals_peft(layer: Any, kind: str) -> None:
    model, x, leaf, run, back = layer(kind)
    wanted, their_grads = theirs(model, x)
    given = jnp.asarray(x.numpy())
    trained, frozen = leaf.split()
    weights = np.linspace(-1, 1, wanted.size, dtype=np.float32).reshape(wanted.shape)

    def objective(trained: Any) -> tuple[jax.Array, jax.Array]:
        whole = jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None)
        y = run(whole, given)
        return (y * weights).sum(), y

    (_, y), grads = jax.value_and_grad(objective, has_aux=True)(trained)
    np.testing.assert_allclose(y, wanted, atol=1e-5, rtol=1e-5)
    assert np.abs(np.asarray(y) - np.asarray(run(leaf.base, given))).max() > 0.1  # the adapter matters
    table = layer is embedding
    pairs = {
        "lora_embedding_A.default" if table else "lora_A.default.weight": grads.a.T if table else back(grads.a),
        "lora_embedding_B.default" if table else "lora_B.default.weight": grads.b.T,
    }
    if leaf.magnitude is not None:
        pairs["lora_magnitude_vector.default.weight"] = grads.magnitude
    for name, grad in pairs.items():
        found = their_grads[f"base_model.model.layer.{name}"]
        np.testing.assert_allclose(np.asarray(grad).reshape(found.shape), found, atol=1e-5, rtol=1e-5, err_msg=name)
    merged = model.merge_and_unload().layer.weight.detach().numpy()
    np.testing.assert_allclose(back(leaf.materialize()), merged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_ia3_of_a_layer_equals_peft(kind: str, inputs: bool) -> None:
    feedforward = ["layer"] if inputs else []
    config = peft.IA3Config(target_modules=["layer"], feedforward_modules=feedforward)
    model = made(torch.nn.Linear(10, 7) if kind == "linear" else torch.nn.Conv2d(3, 8, 3), config)
    layer = model.base_model.model.layer
    weight, bias = ours(layer.base_layer.weight), ours(layer.base_layer.bias)
    kernel = weight.T if kind == "linear" else weight.transpose(2, 3, 1, 0)
    leaf = Ia3(kernel, ours(layer.ia3_l["default"]).reshape(-1), inputs=inputs)
    x = torch.randn(5, 10) if kind == "linear" else torch.randn(2, 3, 9, 9)

    def run(leaf: Any) -> jax.Array:
        given = jnp.asarray(x.numpy())
        if kind == "linear":
            return with_bias(leaves.matmul(given, leaf), leaf, bias)
        y = with_bias(leaves.conv(given.transpose(0, 2, 3, 1), leaf, (1, 1), "VALID"), leaf, bias)
        return y.transpose(0, 3, 1, 2)

    wanted, their_grads = theirs(model, x)
    weights = np.linspace(-1, 1, wanted.size, dtype=np.float32).reshape(wanted.shape)
    np.testing.assert_allclose(run(leaf), wanted, atol=1e-5, rtol=1e-5)
    grad = jax.grad(lambda v: (run(leaf.replace(vector=v)) * weights).sum())(leaf.vector)
    (found,) = their_grads.values()
    np.testing.assert_allclose(grad, found.reshape(-1), atol=1e-5, rtol=1e-5)
    plain = merge({"layer": {"kernel": leaf, "bias": bias}})["layer"]
    merged = model.merge_and_unload().layer
    back = (1, 0) if kind == "linear" else (3, 2, 0, 1)
    np.testing.assert_allclose(plain["kernel"].transpose(back), merged.weight.detach().numpy(), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(plain["bias"], merged.bias.detach().numpy(), atol=1e-5, rtol=1e-5)
