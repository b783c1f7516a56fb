"""Memory of a CLIP ViT-L/14 in four bits: what a process that has loaded it holds, beside bfloat16.

    python benchmarks/quantized_memory.py [--model ViT-L/14] [--scheme int4] [--group 64] [--double] [--directory DIR]

Random weights of the published size are written in bfloat16 and quantized by `jvlm quantize`, kernels and the token
table alike. A fresh process then loads each directory; counted is the anonymous memory that it gives back when the
parameters are deleted, so that the tokenizer and compiled programs, the same on both sides, are left out. Both
directories then embed `--others` pictures and captions that the receipt has not seen, a fresh process each. Prints one
JSON object with the bytes, their ratio, the receipt's cosines and those of the others, and exits 1 if the ratio exceeds
0.30 or the mean over the others lies below the lowest cosine that the receipt states. The cosines are those of random
weights; a trained model's stand in its own receipt. Needs about 8 GB and some minutes.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

LIMIT = 0.30
TARGETS = ("*kernel", "*token_embed/embedding")


TOY: dict[str, Any] = dict(
    image=dict(width=64, depth=1, num_heads=2, mlp_dim=128, patch_size=16, image_size=32),
    text=dict(vocab_size=49408, length=77, width=64, depth=1, num_heads=2, mlp_dim=128, eos_id=49407, pool="eos"),
    embed_dim=64,
)


def write_source(path: Path, name: str) -> None:
    """The CLIP of that published name, or a toy, with random weights in bfloat16 and CLIP's preprocessing."""
    import jax
    import jax.numpy as jnp

    from jvlm import models
    from jvlm.data.image_spec import ImageSpec
    from jvlm.data.processor import Processor, TextSpec
    from jvlm.data.tokenizers import clip_tokenizer
    from jvlm.interop import native
    from jvlm.interop.pretrained import Pretrained
    from jvlm.nn.axes import split

    fields = TOY if name == "toy" else models.fields({"family": "clip", "variant": name})
    config = {"family": "clip", **fields}
    model: Any = models.create(config)
    size = fields["image"]["image_size"]
    example = dict(image=jnp.zeros((1, size, size, 3)), tokens=jnp.zeros((1, 77), jnp.int32))
    variables = jax.jit(lambda key: split(dict(model.init(key, **example)))[0])(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables["params"])
    tokenizer = clip_tokenizer()
    processor = Processor(ImageSpec.clip(size), TextSpec(length=77, pad_id=tokenizer.pad_id), tokenizer)
    native.save(Pretrained(model, params, {}, config, processor, {}), path)


def anonymous() -> int:
    """Bytes of this process's memory that are no file's."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def loaded(path: Path) -> int:
    """Bytes that the parameters of `path` hold in a process."""
    import jax

    import jvlm

    params = jax.block_until_ready(jvlm.load(path).params)
    with_params = anonymous()
    del params
    return with_params - anonymous()


def embedded(path: Path, count: int) -> dict[str, list[list[float]]]:
    """Embeddings of emoji that the receipt is not about."""
    import jvlm
    from jvlm.core.sharding import make_mesh
    from jvlm.data import emoji
    from jvlm.evals.encoder import Encoder
    from jvlm.evals.samples import evenly, open_data

    model = jvlm.load(path)
    variables = {"params": model.params, **model.state}
    encoder = Encoder.for_model(model.model, variables, model.processor, mesh=make_mesh())
    shown = open_data({"name": "tar", "paths": [str(shard) for shard in emoji.shards("train")]})
    samples = [shown[int(at)] for at in evenly(len(shown), count)]
    texts = encoder.texts([sample.captions[0] for sample in samples])
    return dict(image=encoder.images([sample.image for sample in samples]).tolist(), text=texts.tolist())


def in_process(path: Path, *options: str) -> Any:
    """What this script prints about `path` in a process of its own."""
    command = [sys.executable, __file__, "--about", str(path), *options]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def cosines(source: Path, target: Path, count: int) -> dict[str, dict[str, float]]:
    """Mean and lowest between the embeddings of two directories, by side."""
    import numpy as np

    first, second = (in_process(path, "--others", str(count)) for path in (source, target))
    found = {side: (np.array(first[side]) * np.array(second[side])).sum(-1) for side in first}
    return {side: dict(mean=float(x.mean()), lowest=float(x.min()), n=count) for side, x in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-L/14", help="a published CLIP, or toy")
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--others", type=int, default=0, help="pictures and captions to compare on (16)")
    parser.add_argument("--directory", type=Path, help="where the weights go (a temporary one, deleted)")
    parser.add_argument("--about", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.about:
        print(json.dumps(embedded(args.about, args.others) if args.others else loaded(args.about)))
        return 0

    from jvlm.train.quantize import Recipe, quantize_directory

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.directory or Path(temporary)
        source, target = folder / "bfloat16", folder / args.scheme
        write_source(source, args.model)
        receipt = quantize_directory(source, target, Recipe(args.scheme, args.group, args.double, TARGETS))
        sizes = {path.name: in_process(path) for path in (source, target)}
        others = cosines(source, target, args.others or 16)
    ratio = sizes[args.scheme] / sizes["bfloat16"]
    stated = receipt["cosine"]
    kept = all(others[side]["mean"] >= stated[side]["lowest"] for side in others)
    result = dict(model=args.model, bytes=sizes, ratio=ratio, limit=LIMIT, accounted=receipt["bytes"])
    result |= dict(cosine=stated, others=others, left=receipt["left"], worst=receipt["worst"][:3])
    print(json.dumps(result))
    return int(ratio > LIMIT or not kept)


if __name__ == "__main__":
    sys.exit(main())
