"""Builds the demo's picture-caption shards from published emoji art: `jvlm/data/emoji/*.tar` and `splits.json`.

    mkdir art && cd art && npm install --ignore-scripts @iconify-json/twemoji@1.2.5 @iconify-json/noto@1.2.9 \
        @iconify-json/noto-v1@1.2.5 @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/emojione@1.2.3 \
        emojibase-data@17.0.0
    pip install resvg-py==0.5.0 pillow==13.0.0 numpy
    python scripts/build_emoji.py art/node_modules jvlm/data/emoji

Same packages in, same bytes out: nothing depends on the clock, on the machine's fonts or on a directory's order.

A concept is kept when all five sets draw it under its own name (an alias often stands for another drawing: one set's
"cricket" the insect is the game), when it is no flag, skin tone or keycap, and when every set draws it apart from the
concepts kept before it, mirrored ones included (a flip is an augmentation, which would make "left arrow" "right
arrow"). What is left out is printed.

A tar member costs a header of 512 bytes and is padded to 512, so pictures of at most 1,024 bytes are what fits
five sets into 12 MB. At 48 pixels nine in ten are that small without loss; the others get the largest palette
that is.
"""

import argparse
import io
import json
import random
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import resvg_py
from PIL import Image

TRAIN_STYLES = ("twemoji", "noto", "noto-v1", "fluent-emoji-flat")
HELD_OUT_STYLE = "emojione"
STYLES = (*TRAIN_STYLES, HELD_OUT_STYLE)
GROUPS_LEFT_OUT = ("component", "flags")
SUBGROUPS_LEFT_OUT = ("keycap",)
PIXELS = 48
MAX_BYTES = 1024
PALETTES = (192, 128, 96, 64, 48, 32, 24, 16)
MIN_DISTANCE = 10.0  # root mean square over a 16 x 16 thumbnail, in grey levels of 255
HELD_OUT_CONCEPTS, STYLE_CONCEPTS, SEED = 50, 400, 0
PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-"})


class Concept(NamedTuple):
    """One thing that all five sets draw."""

    name: str  # the drawing's name in the icon sets, and the key in the shards
    caption: str
    tags: list[str]


def read_concepts(packages: Path) -> list[Concept]:
    """The candidates of emojibase in its order; quotes are made plain so that every CLIP tokenizer agrees."""
    english = packages / "emojibase-data" / "en"
    messages = json.loads((english / "messages.json").read_text())
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    concepts = []
    for emoji in json.loads((english / "data.json").read_text()):
        group = groups.get(emoji.get("group"))
        if group is None or group in GROUPS_LEFT_OUT or subgroups[emoji["subgroup"]] in SUBGROUPS_LEFT_OUT:
            continue
        caption = emoji["label"].translate(PLAIN)
        tags = [tag.translate(PLAIN) for tag in emoji.get("tags", [])]
        tags = [tag for tag in tags if tag.isascii() and tag != caption]
        name = re.sub(r"[^a-z0-9]+", "-", emoji["label"].lower()).strip("-")
        if caption.isascii():
            concepts.append(Concept(name, caption, tags))
    return concepts


def draw(icons: dict, name: str) -> np.ndarray:
    """One icon of an Iconify set on a white square, [PIXELS, PIXELS, 3] uint8."""
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{PIXELS}" height="{PIXELS}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=PIXELS, height=PIXELS, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    page = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    page.alpha_composite(picture)
    return np.asarray(page.convert("RGB"))


def distinct(pictures: np.ndarray) -> list[tuple[int, int | None]]:
    """For each concept of [styles, concepts, H, W, 3]: its index, and the kept one it is too near to or None."""
    side = PIXELS // 16
    small = pictures.reshape(*pictures.shape[:2], 16, side, 16, side, 3).astype(np.float64).mean((3, 5))
    kept: list[int] = []
    verdicts: list[tuple[int, int | None]] = []
    for index in range(small.shape[1]):
        near = None
        blank = (small[:, index].std((1, 2)).max(-1) < 3).any()
        if kept and not blank:
            others = small[:, kept]  # [styles, kept, 16, 16, 3]
            straight = np.square(others - small[:, index, None]).mean((2, 3, 4))
            mirrored = np.square(others - small[:, index, None, :, ::-1]).mean((2, 3, 4))
            distance = np.sqrt(np.minimum(straight, mirrored).min(0))
            near = kept[int(distance.argmin())] if distance.min() < MIN_DISTANCE else None
        if blank:
            near = index
        if near is None:
            kept.append(index)
        verdicts.append((index, near))
    return verdicts


def encode(picture: np.ndarray) -> bytes:
    """WebP of at most MAX_BYTES: lossless, or lossless over the largest palette that fits."""
    exact = Image.fromarray(picture)

    def webp(image: Image.Image) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", lossless=True, quality=100, method=6)
        return buffer.getvalue()

    data = webp(exact)
    for colours in PALETTES:
        if len(data) <= MAX_BYTES:
            break
        flat = exact.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
        data = webp(flat.convert("RGB"))
    return data


def write_shard(path: Path, samples: Iterable[tuple[Concept, int, str, np.ndarray]]) -> None:
    """An uncompressed tar of `key.webp`, `key.json` pairs, as img2dataset writes them."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for concept, label, style, picture in samples:
            key = f"{style}_{concept.name}"
            about = {"key": key, "caption": concept.caption, "tags": concept.tags}
            about |= {"concept": concept.name, "label": label, "style": style}
            for extension, data in (("webp", encode(picture)), ("json", json.dumps(about).encode())):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the emoji shards of the demo.")
    parser.add_argument("packages", type=Path, help="the node_modules folder with the npm packages")
    parser.add_argument("output", type=Path, help="where the shards and splits.json go")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)

    sets = {s: json.loads((args.packages / "@iconify-json" / s / "icons.json").read_text()) for s in STYLES}
    concepts = [c for c in read_concepts(args.packages) if all(c.name in s["icons"] for s in sets.values())]
    pictures = np.stack([[draw(sets[style], concept.name) for concept in concepts] for style in STYLES])
    verdicts = distinct(pictures)
    for index, near in verdicts:
        if near is not None:
            why = "blank" if near == index else f"drawn like {concepts[near].name}"
            print(f"left out: {concepts[index].name} ({why})")
    keep = [index for index, near in verdicts if near is None]
    concepts, pictures = [concepts[index] for index in keep], pictures[:, keep]

    names = [concept.name for concept in concepts]
    order = sorted(names)
    random.Random(SEED).shuffle(order)
    splits = {
        "concepts": sorted(order[:HELD_OUT_CONCEPTS]),
        "style": sorted(order[HELD_OUT_CONCEPTS : HELD_OUT_CONCEPTS + STYLE_CONCEPTS]),
        "validation": sorted(order[HELD_OUT_CONCEPTS + STYLE_CONCEPTS :]),
    }
    splits["train"] = sorted(splits["style"] + splits["validation"])

    def samples(split: str, *styles: str):
        for style in styles:
            for name in splits[split]:
                label = names.index(name)
                yield concepts[label], label, style, pictures[STYLES.index(style), label]

    shards = {f"train-{style}.tar": samples("train", style) for style in TRAIN_STYLES}
    shards |= {f"{split}-{HELD_OUT_STYLE}.tar": samples(split, HELD_OUT_STYLE) for split in ("style", "validation")}
    shards["concepts.tar"] = samples("concepts", *STYLES)
    for name, members in shards.items():
        write_shard(args.output / name, members)
    manifest = json.dumps(splits, indent=0, sort_keys=True)
    (args.output / "splits.json").write_text(manifest + "\n")
    size = sum((args.output / name).stat().st_size for name in shards)
    print(f"{len(concepts)} concepts, {pictures.shape[0] * pictures.shape[1]} pictures, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
