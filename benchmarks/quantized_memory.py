"""Memory of a CLIP ViT-L/14 in four bits: what a process that has loaded it holds, beside bfloat16.

    python benchmarks/quantized_memory.py [--scheme int4] [--group 64] [--double] [--directory DIR]

Random weights of the published size are written in bfloat16 and quantized by `jvlm quantize`, kernels and the token
table alike. A fresh process then loads each directory; counted is the anonymous memory that it gives back when the
parameters are deleted, so that the tokenizer and compiled programs, the same on both sides, are left out. Prints one
JSON object with both, their ratio and the receipt's cosines, and exits 1 if the ratio exceeds 0.30. The cosines are
those of random weights; a trained model's stand in its own receipt. Needs about 8 GB and some
minutes.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT = 0.30
TARGETS = ("*kernel", "*token_embed/embedding")


def write_source(path: Path) -> None:
    """A ViT-L/14 with random weights in bfloat16, with CLIP's preprocessing."""
    import jax
    import jax.numpy as jnp

    from jvlm import models
    from jvlm.data.image_spec import ImageSpec
    from jvlm.data.processor import Processor, TextSpec
    from jvlm.data.tokenizers import clip_tokenizer
    from jvlm.interop import native
    from jvlm.interop.pretrained import Pretrained
    from jvlm.nn.axes import split

    config = {"family": "clip", **models.fields({"family": "clip", "variant": "ViT-L/14"})}
    model: Any = models.create(config)
    example = dict(image=jnp.zeros((1, 224, 224, 3)), tokens=jnp.zeros((1, 77), jnp.int32))
    variables = jax.jit(lambda key: split(dict(model.init(key, **example)))[0])(jax.random.key(0))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables["params"])
    tokenizer = clip_tokenizer()
    processor = Processor(ImageSpec.clip(224), TextSpec(length=77, pad_id=tokenizer.pad_id), tokenizer)
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


def in_process(path: Path) -> int:
    command = [sys.executable, __file__, "--loaded", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", default="int4")
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--directory", type=Path, help="where the weights go (a temporary one, deleted)")
    parser.add_argument("--loaded", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loaded:
        print(loaded(args.loaded))
        return 0

    from jvlm.train.quantize import Recipe, quantize_directory

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.directory or Path(temporary)
        source, target = folder / "bfloat16", folder / args.scheme
        write_source(source)
        receipt = quantize_directory(source, target, Recipe(args.scheme, args.group, args.double, TARGETS))
        sizes = {path.name: in_process(path) for path in (source, target)}
    ratio = sizes[args.scheme] / sizes["bfloat16"]
    result = dict(bytes=sizes, ratio=ratio, limit=LIMIT, accounted=receipt["bytes"], cosine=receipt["cosine"])
    print(json.dumps(result | dict(left=receipt["left"], worst=receipt["worst"][:3])))
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
