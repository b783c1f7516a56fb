"""3x3 convolutions made of fewer products are the plain ones, values and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import leaves, winograd


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def arrays(*shape: int, out: int = 6) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    given = rng.normal(size=shape), rng.normal(size=(3, 3, shape[-1], out)) / np.sqrt(9 * shape[-1])
    x, kernel = (jnp.asarray(a, jnp.float32) for a in given)
    return x, kernel


@pytest.mark.parametrize("strips", [1, 3])
def test_value_and_gradients_are_those_of_the_convolution(strips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kernel = arrays(2, 12, 8, 5)
    monkeypatch.setattr(winograd, "STRIP_BYTES", 4 * x.nbytes // strips)
    jax.clear_caches()  # which know these shapes by the other number of strips
    assert ("length=3" in str(jax.make_jaxpr(winograd.conv3x3)(x, kernel))) == (strips == 3)

    def both(conv: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda x, k: jnp.square(conv(x, k)).mean(), argnums=(0, 1)))(x, kernel)

    np.testing.assert_allclose(jax.jit(winograd.conv3x3)(x, kernel), plain(x, kernel), atol=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), both(winograd.conv3x3), both(plain))


@pytest.mark.parametrize(
    ("shape", "out", "options", "chosen"),
    [
        ((1, 32, 32, 64), 64, {}, True),
        ((1, 30, 32, 64), 64, {}, False),  # few pixels
        ((1, 33, 32, 64), 64, {}, False),  # an odd side
        ((1, 32, 32, 64), 63, {}, False),  # few channels
        ((1, 32, 32, 513), 64, {}, False),  # few pixels for the channels
        ((1, 32, 32, 64), 64, dict(strides=(2, 2)), False),
        ((1, 32, 32, 64), 64, dict(dilation=2), False),
    ],
)
def test_it_is_for_many_pixels_on_a_cpu(
    shape: tuple[int, ...], out: int, options: dict[str, Any], chosen: bool
) -> None:
    def run(x: Any, kernel: Any) -> jax.Array:
        return leaves.conv(x, kernel, options.get("strides", (1, 1)), "SAME", dilation=options.get("dilation", 1))

    given = jax.ShapeDtypeStruct(shape, np.float32), jax.ShapeDtypeStruct((3, 3, shape[-1], out), np.float32)
    lowered = jax.jit(run).trace(*given).lower(lowering_platforms=("cpu",)).as_text()
    assert ("stablehlo.convolution" not in lowered) == chosen
    for platform in ("tpu", "cuda"):
        other = jax.jit(run).trace(*given).lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in other
