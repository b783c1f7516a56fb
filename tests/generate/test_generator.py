"""Texts are those that transformers writes, whatever the batch, the bucket and the way of compiling."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from jvlm.core import sharding
from jvlm.core.errors import UserError
from jvlm.generate import decoding
from jvlm.generate.generator import Generator, bucket
from jvlm.generate.sampling import sampling
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize_tree
from tests.generate.references import END, NAMES, generate, pair
from tests.models_util import abstract

names = pytest.mark.parametrize("name", NAMES)
RNG = np.random.default_rng(5)
PROMPTS = [[int(x) for x in RNG.integers(8, 60, length)] for length in (5, 1, 11, 8)]


def generator(name: str, **options: Any) -> Generator:
    _, model, variables = pair(name)
    return Generator(model, variables, ends=[END], **options)


@names
def test_greedy_texts_are_transformers(name: str) -> None:
    reference = pair(name)[0]
    expected = [generate(reference, prompt, 20) for prompt in PROMPTS]
    assert generator(name).generate(PROMPTS, 20) == expected
    assert len({len(text) for text in expected}) > 1 or all(END not in text for text in expected)


@names
def test_beams_are_transformers(name: str) -> None:
    reference = pair(name)[0]
    expected = [generate(reference, prompt, 12, num_beams=3) for prompt in PROMPTS]
    assert generator(name).beams(PROMPTS, 12, 3) == expected


@pytest.mark.parametrize(("penalty", "early"), [(0.0, False), (2.0, True), (-1.0, False), (1.0, True)])
def test_beams_follow_length_penalty_and_early_stopping(penalty: float, early: bool) -> None:
    reference = pair("llama")[0]
    options: dict[str, Any] = dict(num_beams=4, length_penalty=penalty, early_stopping=early)
    expected = [generate(reference, prompt, 14, **options) for prompt in PROMPTS]
    assert generator("llama").beams(PROMPTS, 14, 4, length_penalty=penalty, early=early) == expected


def test_the_repetition_penalty_is_transformers() -> None:
    reference = pair("llama")[0]
    plain = generator("llama").generate(PROMPTS, 16)
    for beams in (1, 2):
        expected = [generate(reference, prompt, 16, repetition_penalty=1.8, num_beams=beams) for prompt in PROMPTS]
        how = sampling(repetition_penalty=1.8)
        ours = generator("llama")
        actual = ours.generate(PROMPTS, 16, how=how) if beams == 1 else ours.beams(PROMPTS, 16, 2, how=how)
        assert actual == expected != plain


def test_a_batch_equals_its_prompts_one_by_one() -> None:
    writer = generator("llama")
    for how in (sampling(), sampling(temperature=0.7, top_k=9)):
        together = writer.generate(PROMPTS[:1] + PROMPTS, 10, how=how)
        assert together[0] == writer.generate(PROMPTS[:1], 10, how=how)[0]
    assert [writer.generate([prompt], 10)[0] for prompt in PROMPTS] == writer.generate(PROMPTS, 10)


def test_scanned_equals_unrolled() -> None:
    assert generator("llama", unrolled=False).generate(PROMPTS, 12) == generator("llama").generate(PROMPTS, 12)
    assert generator("llama", unrolled=False).beams(PROMPTS, 8, 3) == generator("llama").beams(PROMPTS, 8, 3)


def test_the_stream_grows_into_the_text() -> None:
    writer = generator("gpt2")
    steps = list(writer.stream(PROMPTS, 13, every=4))
    assert steps[-1] == writer.generate(PROMPTS, 13)
    assert len(steps) == 4
    for before, after in itertools.pairwise(steps):
        assert all(b == a[: len(b)] for b, a in zip(before, after))


def test_a_text_ends_with_the_token_that_completes_a_stop_string() -> None:
    writer = generator("opt")

    def decode(tokens: list[int]) -> str:
        return "".join(f"<{token}>" for token in tokens)

    text = writer.generate(PROMPTS[:1], 20)[0]
    stop = decode(text[9:11])
    first = next(at for at in range(len(text)) if stop in decode(text[: at + 1]))
    stopped = writer.generate(PROMPTS[:2], 20, stop=["absent", stop], decode=decode)
    assert stopped[0] == text[: first + 1]
    assert stopped[1] == writer.generate(PROMPTS[1:2], 20)[0] or stop in decode(stopped[1])


def test_nothing_is_compiled_again_within_a_bucket() -> None:
    writer = generator("qwen2")
    programs: Any = (decoding.start, decoding.proceed)

    def compiled(prompts: list[list[int]], new: int) -> list[int]:
        writer.generate(prompts, new)
        return [program._cache_size() for program in programs]

    first = compiled(PROMPTS[:2], 9)
    assert compiled([[9] * 7, [8] * 3], 12) == compiled([[9] * 8, [8]], 16) == first
    assert compiled([[9] * 9, [8]], 16) == [count + 1 for count in first]


def test_a_bucket_wastes_at_most_an_eighth() -> None:
    sizes = [bucket(n) for n in range(1, 5000)]
    assert all(size >= n and size <= max(8, n * 1.125 + 7) for n, size in enumerate(sizes, 1))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 80


def test_sharded_decoding_writes_the_same() -> None:
    _, model, variables = pair("llama")
    expected = generator("llama").generate(PROMPTS, 10)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.PRESETS["fsdp_tp"]
    placed = jax.device_put(variables, sharding.shard_params(*abstract(model), mesh, rules))
    with sharding.use(mesh, rules):
        assert Generator(model, placed, ends=[END], unrolled=False).generate(PROMPTS, 10) == expected


@pytest.mark.parametrize("scheme", ["int8", "int4", "nf4"])
def test_quantized_weights_write_what_their_values_write(scheme: str) -> None:
    _, model, variables = pair("llama")
    params = quantize_tree(variables["params"], ("*kernel", "*embedding"), scheme, group=16).params
    dense = jax.tree.map(lambda x: x.dequantize() if isinstance(x, QTensor) else x, params, is_leaf=is_quantized)
    expected = Generator(model, {"params": dense}, ends=[END]).generate(PROMPTS, 12)
    for unrolled in (True, False):
        assert Generator(model, {"params": params}, ends=[END], unrolled=unrolled).generate(PROMPTS, 12) == expected
    assert expected != generator("llama").generate(PROMPTS, 12) or scheme == "int8"


def is_quantized(x: Any) -> bool:
    return isinstance(x, QTensor)


def test_prompts_that_cannot_be_continued_are_refused() -> None:
    writer = generator("llama")
    with pytest.raises(UserError, match=r"41 tokens.*40 positions"):
        writer.generate([[9] * 41], 5)
    with pytest.raises(UserError, match="empty prompt"):
        writer.generate([[9], []], 5)
    with pytest.raises(UserError, match="at least one"):
        writer.generate([[9]], 0)
    assert len(writer.generate([[9] * 35], 50)[0]) <= 5
