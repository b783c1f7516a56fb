"""Input pipeline: pictures per second and core from tar shards, jvlm against torch's DataLoader over webdataset.

    python benchmarks/input_pipeline.py [--cores 2] [--pairs 5] [--pictures 4096] [--threads] [--decoder opencv]

Both sides read the same shards (JPEG, shorter side 256, with captions), draw a random resized crop of 224 pixels as
open_clip trains (area 0.9 to 1, bicubic), normalize, tokenize with CLIP's tokenizer and hand over batches of 128, on
the same cores with as many workers. Pairs alternate, workers are warm before the clock starts, the figure is the
median of the pairs. Prints one JSON object.
"""

import argparse
import importlib
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SIZE, BATCH, SHARD = 224, 128, 512


def photograph(seed: int) -> bytes:
    """A JPEG of about 40 kB with a photograph's mix of smooth parts, edges and noise; shorter side 256."""
    rng = np.random.default_rng(seed)
    width, height = (256, int(rng.integers(256, 400)))[:: 1 if seed % 2 else -1]
    pixels = np.zeros((height, width, 3))
    for cells, strength in ((4, 90), (16, 50), (64, 25)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        pixels += (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) / 128 - 1) * strength
    pixels += rng.normal(0, 6, pixels.shape) + 128
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=92)
    return out.getvalue()


def write_shards(folder: Path, pictures: int) -> list[str]:
    """`pictures` samples (from 256 distinct photographs) in shards of `SHARD`."""
    made = [photograph(i) for i in range(min(256, pictures))]
    paths = []
    for shard in range(pictures // SHARD):
        paths.append(str(folder / f"{shard:05d}.tar"))
        with tarfile.open(paths[-1], "w") as tar:
            for i in range(shard * SHARD, (shard + 1) * SHARD):
                caption = f"a photo of the {i}th thing on a {i % 97} metre tall table in the garden, oil on canvas"
                for extension, data in (("jpg", made[i % len(made)]), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{i:08d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return paths


def jvlm_batches(paths: list[str], workers: int, threads: bool, decoder: Any) -> Iterator[Any]:
    """jvlm's training iterator."""
    from jvlm.data.augment import Augment
    from jvlm.data.pipeline import make_train_iterator
    from jvlm.data.processor import ImageSpec, Processor, TextSpec
    from jvlm.data.tar import TarSource
    from jvlm.data.tokenizers import clip_tokenizer

    tokenizer = clip_tokenizer("open_clip")
    processor = Processor(ImageSpec.clip(SIZE), TextSpec(length=77, pad_id=0), tokenizer)
    return make_train_iterator(
        TarSource(paths), processor, batch_size=BATCH, seed=0, workers=0 if threads else workers, threads=workers,
        augment=Augment(crop_scale=(0.9, 1.0), decoder=decoder),
    )  # fmt: skip


def torch_batches(paths: list[str], workers: int) -> Iterator[Any]:
    """open_clip's recipe: webdataset, its training transform and tokenizer, torch's DataLoader."""
    from tests import reference

    assert reference  # makes torchvision's Python part importable
    import open_clip
    import torch
    from open_clip.transform import image_transform

    torch.set_num_threads(1)
    webdataset: Any = importlib.import_module("webdataset")  # its names are made at import
    transform: Any = image_transform(SIZE, is_train=True)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    dataset = (
        webdataset.WebDataset(paths, resampled=True, shardshuffle=False, nodesplitter=webdataset.split_by_node)
        .shuffle(512)
        .decode("pilrgb")
        .to_tuple("jpg", "txt")
        .map_tuple(transform, lambda text: tokenizer(text)[0])
        .batched(BATCH, partial=False)
    )
    return iter(torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=2))


def rate(batches: Iterator[Any], pictures: int) -> float:
    """Pictures per second over `pictures`, continuing a warm iterator."""
    start = time.perf_counter()
    for _ in range(pictures // BATCH):
        next(batches)
    return pictures // BATCH * BATCH / (time.perf_counter() - start)


def measure(make: Callable[[], Iterator[Any]], pictures: int, workers: int) -> float:
    """One run: start, warm up until what was prefetched meanwhile is used up, measure, stop."""
    batches = make()
    for _ in range(2 * workers + 4):
        next(batches)
    result = rate(batches, pictures)
    getattr(batches, "close", lambda: None)()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=4096, help="measured in each run")
    parser.add_argument("--threads", action="store_true", help="jvlm with threads instead of processes")
    parser.add_argument("--decoder", choices=("pillow", "opencv"), default="pillow", help="jvlm's decoder")
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_shards(Path(folder), 4096)
        for pair in range(args.pairs):
            runs = [
                (ours, lambda: jvlm_batches(paths, args.cores, args.threads, args.decoder)),
                (theirs, lambda: torch_batches(paths, args.cores)),
            ]
            for results, make in runs if pair % 2 == 0 else runs[::-1]:
                results.append(measure(make, args.pictures, args.cores) / args.cores)
        kilobytes = sum(os.path.getsize(p) for p in paths) / 4096 / 1e3
    print(
        json.dumps(
            {
                "benchmark": "input_pipeline",
                "unit": "pictures per second and core",
                "cores": args.cores,
                "workers": "threads" if args.threads else "processes",
                "decoder": args.decoder,
                "kilobytes_per_sample": round(kilobytes, 1),
                "jvlm": [round(r, 1) for r in ours],
                "torch_webdataset": [round(r, 1) for r in theirs],
                "jvlm_median": round(statistics.median(ours), 1),
                "torch_webdataset_median": round(statistics.median(theirs), 1),
                "ratio_median": round(statistics.median(a / b for a, b in zip(ours, theirs)), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
