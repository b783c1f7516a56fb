"""Embedding throughput of CLIP on the CPU: jvlm's encoder against transformers and open_clip on torch.

    python benchmarks/embedding.py [--model ViT-B/32] [--pictures 64] [--batch 32] [--pairs 5] [--cores 2] [--parts]

One model with random weights is exported to both formats and opened by all three in float32. Pictures are JPEG bytes
(shorter side 256) to unit embeddings, texts are captions of natural length; the rivals run as their documentation has
it: batches in a loop, each library's own preprocessing, `eval` and `inference_mode`. `text_padded` lets them pad to the
model's length as they do by default, `text_cut` only to the longest of a batch (open_clip cannot); jvlm always cuts,
since nothing behind the end of a text changes a causal tower. `--parts` also times the towers alone on arrays that are
ready. Every part says by how much the two sides' embeddings differ. Prints one JSON object.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pairs
from benchmarks.input_pipeline import photograph

TOY: dict[str, Any] = dict(
    embed_dim=32,
    image=dict(width=64, depth=2, num_heads=1, mlp_dim=128, patch_size=8, image_size=32),
    text=dict(vocab_size=49408, length=77, width=64, depth=2, num_heads=1, mlp_dim=128),
)
WORDS = "a photo of the old red boat on quiet water near two trees under morning light with people dog and bicycle"

Side = dict[str, Callable[[], np.ndarray]]
"""`image`, `text_padded`, `text_cut`, and the towers alone on ready arrays, `image_tower` and `text_tower`."""


def captions(count: int) -> list[str]:
    """Captions of 5 to 17 words, the lengths that people write."""
    rng, words = np.random.default_rng(0), WORDS.split()
    return [" ".join(rng.choice(words, rng.integers(5, 18))) for _ in range(count)]


def export(name: str, folder: Path) -> None:
    """A CLIP with random weights as `folder`/hf and `folder`/open_clip."""
    import jax

    import jvlm
    from jvlm import models
    from jvlm.data.processor import ImageSpec, Processor, TextSpec
    from jvlm.data.tokenizers import clip_tokenizer
    from jvlm.interop.pretrained import Pretrained
    from jvlm.interop.weights import example_inputs
    from jvlm.nn.axes import split

    fields = models.fields({"family": "clip", **(TOY if name == "toy" else {"variant": name})})
    model: Any = models.create({"family": "clip", **fields})
    inputs = {key: np.zeros(shape, dtype) for key, (shape, dtype) in example_inputs(model).items()}
    params = split(jax.jit(model.init)(jax.random.key(0), **inputs)["params"])[0]
    size, length = fields["image"]["image_size"], fields["text"]["length"]
    styles: dict[str, Literal["transformers", "open_clip"]] = {"hf": "transformers", "open_clip": "open_clip"}
    for format, style in styles.items():
        tokenizer = clip_tokenizer(style)
        processor = Processor(
            ImageSpec.clip(size, style=style), TextSpec(length=length, pad_id=tokenizer.pad_id), tokenizer
        )
        jvlm.save(
            Pretrained(model, params, {}, {"family": "clip", **fields}, processor, {}), folder / format, format=format
        )


def parts_of(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))


def jvlm_side(directory: Path, pictures: list[bytes], texts: list[str], batch: int) -> Side:
    import jax

    import jvlm
    from jvlm.evals.encoder import Encoder, predict_fns, used_length

    opened: Any = jvlm.load(directory)
    variables = {"params": opened.params, **opened.state}
    encoder = Encoder.for_model(opened.model, variables, opened.processor, batch_size=batch)
    towers = {key: jax.jit(fn) for key, fn in predict_fns(opened.model).items()}
    image, tokens = opened.processor.images(pictures[:batch]), opened.processor.texts(texts[:batch])
    tokens = tokens[:, : used_length(tokens, opened.processor.text.pad_id)]
    return dict(
        image=lambda: encoder.images(pictures),
        text_padded=lambda: encoder.texts(texts),
        text_cut=lambda: encoder.texts(texts),
        image_tower=lambda: np.asarray(towers["image"](variables, image)),
        text_tower=lambda: np.asarray(towers["text"](variables, tokens)),
    )


def transformers_side(directory: Path, pictures: list[bytes], texts: list[str], batch: int) -> Side:
    from tests.reference import torch, transformers

    model = transformers.CLIPModel.from_pretrained(directory).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(directory)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(directory)

    def pixels(items: list[bytes]) -> Any:
        return processor([Image.open(io.BytesIO(data)) for data in items], return_tensors="pt")["pixel_values"]

    def tokens(items: list[str], padding: Any) -> Any:
        return tokenizer(items, padding=padding, truncation=True, return_tensors="pt")

    def unit(output: Any) -> np.ndarray:
        return torch.nn.functional.normalize(output.pooler_output, dim=-1).numpy()

    def image() -> np.ndarray:
        with torch.inference_mode():
            chunks = parts_of(pictures, batch)
            return np.concatenate([unit(model.get_image_features(pixel_values=pixels(items))) for items in chunks])

    def text(padding: Any) -> np.ndarray:
        with torch.inference_mode():
            chunks = parts_of(texts, batch)
            return np.concatenate([unit(model.get_text_features(**tokens(items, padding))) for items in chunks])

    def ready(function: Any, inputs: Any) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            with torch.inference_mode():
                return unit(function(**inputs))

        return run

    return dict(
        image=image,
        text_padded=lambda: text("max_length"),
        text_cut=lambda: text(True),
        image_tower=ready(model.get_image_features, {"pixel_values": pixels(pictures[:batch])}),
        text_tower=ready(model.get_text_features, tokens(texts[:batch], True)),
    )


def open_clip_side(directory: Path, pictures: list[bytes], texts: list[str], batch: int) -> Side:
    from tests.reference_open_clip import open_clip, torch

    name = f"local-dir:{directory}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenizer, transform, model = open_clip.get_tokenizer(name), _call(preprocess), _call(model.eval())

    def pixels(items: list[bytes]) -> Any:
        return torch.stack([transform(Image.open(io.BytesIO(data))) for data in items])

    def over(items: Any, encode: Callable[[Any], Any]) -> np.ndarray:
        with torch.inference_mode():
            return np.concatenate([encode(chunk).numpy() for chunk in parts_of(items, batch)])

    image_batch = pixels(pictures[:batch])
    return dict(
        image=lambda: over(pictures, lambda chunk: model.encode_image(pixels(chunk), normalize=True)),
        text_padded=lambda: over(texts, lambda chunk: model.encode_text(tokenizer(chunk), normalize=True)),
        image_tower=lambda: over(image_batch, lambda chunk: model.encode_image(chunk, normalize=True)),
    )


def _call(thing: Any) -> Any:
    """`thing`, whose declared type is wider than what it is here."""
    return thing


def measure(name: str, pictures: int, batch: int, repeats: int, cores: int, parts: bool) -> dict[str, Any]:
    """The report that the command prints."""
    from tests.reference import torch

    torch.set_num_threads(cores)
    data, texts = [photograph(seed) for seed in range(pictures)], captions(4 * pictures)
    report: dict[str, Any] = {"benchmark": "embedding", "model": name, "batch": batch, "cores": cores}
    report |= {"precision": "float32", "pairs": repeats, "pictures": pictures, "texts": len(texts)}
    with tempfile.TemporaryDirectory() as scratch:
        export(name, Path(scratch))
        # jvlm opens each rival's own directory, whose preprocessing it follows to the pixel.
        sides = {
            rival: tuple(side(Path(scratch, format), data, texts, batch) for side in (jvlm_side, theirs))
            for rival, format, theirs in (
                ("transformers", "hf", transformers_side),
                ("open_clip", "open_clip", open_clip_side),
            )
        }
    counts = dict(image=pictures, text_padded=len(texts), text_cut=len(texts))
    if parts:
        counts |= dict(image_tower=min(batch, pictures), text_tower=min(batch, len(texts)))
    for rival, (ours, theirs) in sides.items():
        report[rival] = {
            work: pairs.rates(pairs.alternate(ours[work], theirs[work], repeats), count)
            | {"largest_difference": float(np.abs(ours[work]() - theirs[work]()).max())}
            for work, count in counts.items()
            if work in theirs
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/32", help="a published name, or toy")
    parser.add_argument("--pictures", type=int, default=64, help="and four times as many texts")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--parts", action="store_true")
    args = parser.parse_args()
    pairs.hold_cores(args.cores)
    print(json.dumps(measure(args.model, args.pictures, args.batch, args.pairs, args.cores, args.parts)))


if __name__ == "__main__":
    main()
