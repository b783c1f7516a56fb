"""big_vision's SigLIP checkpoints, inwards: one `.npz` of '/'-joined names and no configuration."""

import math
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.lib import format as npy

from jvlm.core.bijections import Bijection, drop_lead
from jvlm.core.errors import UserError
from jvlm.core.mapping import Index, Rule, rule
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor, TextSpec
from jvlm.data.tokenizers import FILES, tokenizer_from_files
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.table import Config, Table
from jvlm.interop.weights import Placement, read_weights
from jvlm.models.dual_encoder import DualEncoder

_SCANNED = "/encoderblock/"


class NpzReader:
    """Random access to the arrays of a big_vision `.npz`, by their names without `params/`.

    A scanned encoder, one array over all layers, is shown layer by layer (`encoderblock_0`, ...), as an unrolled one
    is stored. Raises UserError for a file that is no complete `.npz`, or that holds pickles.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._where: dict[str, tuple[str, int | None, tuple[int, ...]]] = {}
        self._last: tuple[str, np.ndarray] | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                stored = {name.removesuffix(".npy"): _shape(archive, name) for name in archive.namelist()}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be read as .npz ({error}); copy it again") from None
        for name, shape in stored.items():
            short = name.removeprefix("params/")
            if _SCANNED in short:
                for layer in range(shape[0]):
                    self._where[short.replace(_SCANNED, f"/encoderblock_{layer}/")] = (name, layer, shape[1:])
            else:
                self._where[short] = (name, None, shape)

    def names(self) -> Iterable[str]:
        return self._where.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._where[name][2]

    def read(self, name: str, index: Index | None = None) -> np.ndarray:
        stored, layer, _ = self._where[name]
        # The layers of a scanned array are asked for one after another.
        if self._last is None or self._last[0] != stored:
            self._last = (stored, self._read(stored))
        array = self._last[1] if layer is None else self._last[1][layer]
        return array[index] if index else array

    def _read(self, stored: str) -> np.ndarray:
        try:
            with np.load(self._path, allow_pickle=False) as archive:
                array = archive[stored]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"{self._path}: {stored} cannot be read ({error}); copy it again") from None
        # numpy's format does not know bfloat16 and gives its bytes.
        return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with archive.open(name) as file:
        version = npy.read_magic(file)
        if version not in readers:
            raise ValueError(f"{name} has the array format {version}")
        shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} is pickled")
    return shape


def shapes(reader: NpzReader) -> dict[str, tuple[int, ...]]:
    """What stands for a configuration: the shape of every array, by name. `TABLE.fields` takes it."""
    return {name: reader.shape(name) for name in reader.names()}


def _tower(config: Config, encoder: str) -> dict[str, Any]:
    layers = {int(m[1]) for name in config if (m := re.match(rf"{encoder}/encoderblock_(\d+)/", name))}
    if not layers:
        raise UserError(f"the checkpoint has no {encoder}/encoderblock; is it a SigLIP of big_vision?")
    block = f"{encoder}/encoderblock_0"
    width, heads, _ = config[f"{block}/MultiHeadDotProductAttention_0/query/kernel"]
    return dict(
        width=width, depth=len(layers), num_heads=heads, mlp_dim=config[f"{block}/MlpBlock_0/Dense_0/kernel"][-1]
    )


def fields(config: Config) -> dict[str, Any]:
    """Fields of `models.siglip` from `shapes`.

    The picture is the square that the patches cover: a checkpoint trained at 384 with patches of 14 says 378.
    """
    needed = ("img/embedding/kernel", "img/pos_embedding", "img/MAPHead_0/probe", "txt/head/kernel", "t")
    for name in needed:
        if name not in config:
            raise UserError(f"the checkpoint has no {name}; jvlm reads big_vision's SigLIP")
    patch_size, count = config["img/embedding/kernel"][0], config["img/pos_embedding"][1]
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(f"img/pos_embedding has {count} positions; jvlm implements square grids")
    vocab_size, _ = config["txt/Embed_0/embedding"]
    length = config["txt/pos_embedding"][1]
    return dict(
        embed_dim=config["txt/head/kernel"][-1],
        image=dict(_tower(config, "img/Transformer"), patch_size=patch_size, image_size=side * patch_size),
        text=dict(_tower(config, "txt/Encoder_0"), vocab_size=vocab_size, length=length),
        bias_init=-10.0 if "b" in config else None,
    )


def _merge(at: int, num_heads: int) -> Bijection:
    """Heads kept as an axis of their own, the axes `at` and `at` + 1, to ours where they are one."""

    def load(x: np.ndarray) -> tuple[np.ndarray]:
        return (x.reshape(*x.shape[:at], -1, *x.shape[at + 2 :]),)

    def save(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:at], num_heads, -1, *x.shape[at + 1 :])

    return Bijection("merge_heads", load, save)


def _patch(patch_size: int) -> Bijection:
    return Bijection(
        "flatten",
        lambda x: (x.reshape(-1, x.shape[-1]),),
        lambda x: x.reshape(patch_size, patch_size, -1, x.shape[-1]),
    )


def _same(name: str, path: str, *leaves: str) -> list[Rule]:
    return [rule(f"{name}/{leaf}", f"{path}/{leaf}") for leaf in leaves]


def _attention(name: str, path: str, heads: int) -> list[Rule]:
    name = f"{name}/MultiHeadDotProductAttention_0"
    return [
        *(rule(f"{name}/{x}/kernel", f"{path}/{x}/kernel", _merge(1, heads)) for x in ("query", "key", "value")),
        *(rule(f"{name}/{x}/bias", f"{path}/{x}/bias", _merge(0, heads)) for x in ("query", "key", "value")),
        rule(f"{name}/out/kernel", f"{path}/out/kernel", _merge(0, heads)),
        rule(f"{name}/out/bias", f"{path}/out/bias"),
    ]


def _mlp(name: str, path: str) -> list[Rule]:
    return [
        *_same(f"{name}/MlpBlock_0/Dense_0", f"{path}/up", "kernel", "bias"),
        *_same(f"{name}/MlpBlock_0/Dense_1", f"{path}/down", "kernel", "bias"),
    ]


def _encoder(name: str, path: str, heads: int) -> list[Rule]:
    layer, ours = f"{name}/encoderblock_{{}}", f"{path}/blocks/layers"
    return [
        *_same(f"{layer}/LayerNorm_0", f"{ours}/norm_attn", "scale", "bias"),
        *_same(f"{layer}/LayerNorm_1", f"{ours}/norm_mlp", "scale", "bias"),
        *_attention(layer, f"{ours}/attn", heads),
        *_mlp(layer, f"{ours}/mlp"),
        *_same(f"{name}/encoder_norm", f"{path}/norm", "scale", "bias"),
    ]


def rules(model: DualEncoder) -> list[Rule]:
    """The tensor table of a SigLIP of big_vision."""
    image: Any = model.image_tower
    text: Any = model.text_tower
    head, pool = "img/MAPHead_0", "image_tower/map_head"
    return [
        rule("t", "logit_scale", drop_lead(1)),
        *([] if model.bias_init is None else [rule("b", "logit_bias", drop_lead(1))]),
        rule("img/embedding/kernel", "image_tower/patches/proj/kernel", _patch(image.patch_size)),
        rule("img/embedding/bias", "image_tower/patches/proj/bias"),
        rule("img/pos_embedding", "image_tower/pos_embed"),
        *_encoder("img/Transformer", "image_tower", image.num_heads),
        rule(f"{head}/probe", f"{pool}/probe"),
        *_attention(head, f"{pool}/attn", image.num_heads),
        *_same(f"{head}/LayerNorm_0", f"{pool}/norm", "scale", "bias"),
        *_mlp(head, f"{pool}/mlp"),
        rule("txt/Embed_0/embedding", "text_tower/token_embed/embedding"),
        rule("txt/pos_embedding", "text_tower/pos_embed", drop_lead(1)),
        *_encoder("txt/Encoder_0", "text_tower", text.num_heads),
        *_same("txt/head", "text_proj", "kernel", "bias"),
    ]


def config(model: DualEncoder) -> dict[str, Any]:
    """big_vision has no configuration file, and its checkpoints are only read."""
    raise UserError("jvlm reads big_vision checkpoints and does not write them; export to another format")


TABLE = Table("siglip", fields, config, rules, ignore=("opt/*",))


def load(path: Path, *, dtype: Any | None = None, placement: Placement | None = None) -> Pretrained:
    """The SigLIP of an `.npz`, with SigLIP's preprocessing of pictures.

    The file holds no tokenizer: a SentencePiece `.model` or `tokenizer.json` beside it is used; without one the model
    has no text preprocessing.
    """
    reader = NpzReader(path)
    model, fields, variables = read_weights(TABLE, shapes(reader), reader, dtype, placement)
    files = {name: (path.parent / name).read_bytes() for name in FILES if (path.parent / name).is_file()}
    tokenizer = tokenizer_from_files(files) if files else None
    text = None if tokenizer is None else TextSpec(length=model.text_tower.length, pad_id=tokenizer.pad_id)
    processor = Processor(ImageSpec.siglip(model.image_tower.image_size), text, tokenizer)
    params = variables.pop("params")
    return Pretrained(model, params, variables, {"family": TABLE.family, **fields}, processor, {})
