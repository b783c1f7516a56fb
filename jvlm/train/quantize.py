"""Quantizes a directory, measures what that costs, and writes the receipt beside the weights."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm.core.build import lookup
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.files import write_json
from jvlm.core.leaves import Leaf
from jvlm.core.sharding import make_mesh
from jvlm.core.tree import flatten
from jvlm.core.types import Params
from jvlm.data import emoji
from jvlm.evals.encoder import Encoder, predict_fns
from jvlm.evals.samples import open_data
from jvlm.evals.score import score
from jvlm.evals.suites import SUITES, check_names, make_evaluator, user_data
from jvlm.interop import native
from jvlm.interop.hf import directory as hf
from jvlm.interop.pretrained import Pretrained
from jvlm.interop.weights import check_free, write_whole
from jvlm.train.pretrained import load
from jvlm.train.receipt import HTML, JSON, page
from jvlm.transforms.account import bytes_per_parameter, layer_errors, stored_bytes
from jvlm.transforms.calibrate import collect
from jvlm.transforms.calibrated import METHODS, quantize_calibrated
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import Quantized, quantize_tree
from jvlm.transforms.requantize import requantize
from jvlm.transforms.schemes import SCHEMES

FORMATS = {"jvlm": native.save, "compressed-tensors": lambda model, path: hf.save(model, path, packed=True)}
SAMPLES = 32
"""Pictures and captions that embeddings are compared on and kernels are calibrated with."""
WORST = 10


@dataclass(frozen=True)
class Recipe:
    """What is asked for: see `jvlm quantize --help`."""

    scheme: str = "int4"
    group: int | None = 64
    double: bool = False
    targets: tuple[str, ...] = ("*kernel",)
    calibrate: str | None = None
    format: str = "jvlm"
    suite: str | None = None
    data: str | None = None
    max_drop: float | None = None

    def check(self) -> None:
        """ConfigError for names that do not exist and for options that do not go together, before anything is read."""
        lookup(SCHEMES, self.scheme, "scheme")
        lookup(FORMATS, self.format, "format")
        if self.calibrate is not None:
            lookup(METHODS, self.calibrate, "calibration method")
        if self.suite is not None:
            check_names([self.suite])
        if self.max_drop is not None and self.suite is None:
            raise ConfigError("--max-drop bounds the drop of an evaluation; name it with --suite")


def quantize_directory(source: str | Path, target: Path, recipe: Recipe) -> dict[str, Any]:
    """Writes `target`, the model of `source` quantized by `recipe`, with receipt.json and receipt.html; the receipt.

    A source whose kernels are quantized and carry adapters is merged and rounded again as it was, whatever the recipe's
    scheme. Raises UserError, nothing written, when the evaluation drops by more than `max_drop`, for a source without
    adapters that is quantized already, and where the format cannot express the result.
    """
    recipe.check()
    check_free(target)
    before = load(source)
    evaluator = make_evaluator(recipe.suite, _suite_data(recipe)) if recipe.suite else None
    pictures, captions = _samples(recipe)
    first = _measure(before, pictures, captions, evaluator, recipe.suite)
    receipt: dict[str, Any] = dict(source=str(source), **{k: v for k, v in asdict(recipe).items() if v is not None})
    found = _quantized(before, recipe, pictures, captions, receipt)
    after = replace(before, params=found.params)
    second = _measure(after, pictures, captions, evaluator, recipe.suite)
    receipt |= _account(before.params, found) | _compare(first, second)
    _judge(receipt, recipe, target)

    def fill(part: Path) -> None:
        FORMATS[recipe.format](after, part)
        write_json(part / JSON, receipt)
        (part / HTML).write_text(page(receipt))

    write_whole(target, fill)
    return receipt


def _quantized(
    before: Pretrained, recipe: Recipe, pictures: Sequence[bytes], captions: Sequence[str], receipt: dict[str, Any]
) -> Quantized:
    leaves: list[Any] = [leaf for leaf in flatten(before.params).values() if isinstance(leaf, Leaf)]
    if leaves and all(isinstance(leaf, QTensor) for leaf in leaves):
        raise UserError(f"{receipt['source']} is quantized already ({leaves[0].scheme}); quantize what it came from")
    if leaves:
        params, changes = requantize(before.params)
        if changes:
            receipt["requantized"] = {path: change._asdict() for path, change in changes.items()}
            return Quantized(params, {})
        before = replace(before, params=params)
    options: Any = dict(patterns=recipe.targets, scheme=recipe.scheme, group=recipe.group, double=recipe.double)
    if recipe.calibrate is None:
        return quantize_tree(before.params, **options)
    batches = _batches(before, pictures, captions)
    receipt["calibrated_on"] = sum(len(next(iter(batch.values()))) for batch in batches)

    def apply(params: Params, batch: Any) -> Any:
        return before.model.apply({"params": params, **before.state}, **batch)

    moments = collect(apply, before.params, batches, recipe.targets)
    return quantize_calibrated(before.params, moments, recipe.calibrate, **options)


def _suite_data(recipe: Recipe) -> str | None:
    return recipe.data if recipe.suite and SUITES[recipe.suite].user_data else None


def _samples(recipe: Recipe) -> tuple[list[bytes], list[str]]:
    """Pictures and captions from the user's data, else from the emoji of the package, evenly spaced."""
    if recipe.data is not None:
        folder = Path(recipe.data)
        source = user_data(folder / "train" if (folder / "train").is_dir() else folder)
    else:
        source = {"name": "tar", "paths": [str(path) for path in emoji.shards("validation")]}
    opened = open_data(source)
    count = min(SAMPLES, len(opened))
    samples = [opened[int(at)] for at in np.linspace(0, len(opened) - 1, count)]
    return [s.image for s in samples], [caption for s in samples for caption in s.captions[:1]]


def _batches(model: Pretrained, pictures: Sequence[bytes], captions: Sequence[str]) -> list[dict[str, jax.Array]]:
    arrays = {}
    if model.processor.image is not None:
        arrays["image"] = model.processor.images(list(pictures))
    if model.processor.tokenizer is not None and captions:
        arrays["tokens"] = model.processor.texts(captions)
    if not arrays:
        raise UserError("the model has no preprocessing, so nothing can be shown to it; leave --calibrate away")
    count = min(map(len, arrays.values()))
    return [
        {name: jnp.asarray(x[at : at + 8]) for name, x in arrays.items()} for at in range(0, count - count % 8 or 1, 8)
    ]


def _measure(
    model: Pretrained, pictures: Sequence[bytes], captions: Sequence[str], evaluator: Any, suite: str | None
) -> dict[str, Any]:
    """Embeddings by side and the evaluation's scores."""
    variables = {"params": model.params, **model.state}
    out: dict[str, Any] = {"embeddings": {}}
    try:
        sides = predict_fns(model.model)
    except UserError:
        sides = {}
    if sides:
        encoder = Encoder.for_model(model.model, variables, model.processor, mesh=make_mesh())
        if "image" in sides and model.processor.image is not None:
            out["embeddings"]["image"] = encoder.images(list(pictures))
        if "text" in sides and model.processor.tokenizer is not None and captions:
            out["embeddings"]["text"] = encoder.texts(captions)
        if evaluator is not None:
            out["scores"] = score(suite or "", evaluator, encoder)
    elif evaluator is not None:
        raise UserError(f"suite {suite!r} needs a model with embeddings; leave --suite away")
    elif model.processor.tokenizer is not None and captions:
        tokens = jnp.asarray(model.processor.texts(captions))
        outputs = jax.jit(lambda variables, tokens: model.model.apply(variables, tokens=tokens))(variables, tokens)
        last = next((getattr(outputs, name) for name in ("logits", "pooled") if hasattr(outputs, name)), outputs)
        out["embeddings"]["outputs"] = np.asarray(jax.tree.leaves(last)[0], np.float32)
    return out


def _account(before: Params, found: Quantized) -> dict[str, Any]:
    plain = not any(isinstance(leaf, Leaf) for leaf in flatten(before).values())
    errors = layer_errors(before, found.params) if plain else {}
    rows: list[dict[str, Any]] = [
        dict(path=path, layer=layer if len(layers) > 1 else None, error=float(error))
        for path, layers in errors.items()
        for layer, error in enumerate(layers)
    ]
    sizes = [stored_bytes(tree) for tree in (before, found.params)]
    kernels = bytes_per_parameter(found.params)
    return dict(
        bytes=dict(
            before=round(sizes[0]),
            after=round(sizes[1]),
            ratio=sizes[1] / sizes[0],
            per_quantized_parameter=None if math.isnan(kernels) else kernels,
        ),
        layers=rows,
        worst=sorted(rows, key=lambda row: -row["error"])[:WORST],
        left=found.left,
    )


def _compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    cosines = {}
    for side, x in first["embeddings"].items():
        y = second["embeddings"][side]
        cosine = (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))
        cosines[side] = dict(mean=float(cosine.mean()), lowest=float(cosine.min()), n=int(cosine.size))
    out: dict[str, Any] = dict(cosine=cosines)
    if "scores" in first:
        out["evaluation"] = {
            metric: dict(
                before=values["value"],
                after=second["scores"][metric]["value"],
                change=second["scores"][metric]["value"] - values["value"],
                n=values["n"],
            )
            for metric, values in first["scores"].items()
        }
    return out


def _judge(receipt: dict[str, Any], recipe: Recipe, target: Path) -> None:
    """UserError when a metric of the evaluation drops by more than the recipe allows."""
    if recipe.max_drop is None:
        return
    metric, values = min(receipt["evaluation"].items(), key=lambda item: item[1]["change"])
    if -values["change"] > recipe.max_drop + 1e-9:  # a drop of 208 to 200 in 400 is 0.02, not more
        raise UserError(
            f"{recipe.suite} {metric} drops from {values['before']:.4f} to {values['after']:.4f}, more than --max-drop "
            f"{recipe.max_drop:g}; {target} is not written: use a finer scheme, smaller groups or --calibrate"
        )
