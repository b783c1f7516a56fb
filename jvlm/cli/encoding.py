"""What the verbs that embed share: the model as an encoder, pictures checked before it is read, tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jvlm.cli.numbers import whole
from jvlm.core.errors import UserError

if TYPE_CHECKING:
    from jvlm.evals.encoder import Encoder
    from jvlm.interop.pretrained import Pretrained


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory, workdir or checkpoint step")
    parser.add_argument("--batch-size", type=whole(1), default=64, metavar="N", help="inputs computed at once (64)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def load_encoder(args: argparse.Namespace, *needs: str) -> "tuple[Pretrained, Encoder]":
    """The model of `--model` over all devices. UserError when it lacks a tower of `needs` (`image`, `text`)."""
    from jvlm.core.sharding import make_mesh
    from jvlm.evals.encoder import Encoder, predict_fns
    from jvlm.train.pretrained import load
    from jvlm.train.runtime import start

    start()
    pretrained = load(args.model)
    image = pretrained.processor.image
    given = dict(image=image, reconstruction=image, text=pretrained.processor.tokenizer)
    towers = predict_fns(pretrained.model)
    for side in needs:
        if side not in towers:
            if side == "reconstruction":
                raise UserError(f"{args.model}: the model gives no picture back; give an autoencoder")
            raise UserError(f"{args.model}: the model has no {side} tower; give a dual encoder such as CLIP")
        if given[side] is None:
            what = "tokenizer" if side == "text" else "image preprocessing (preprocessor_config.json)"
            raise UserError(f"{args.model}: the directory has no {what}; copy it there from the model's source")
    variables = {"params": pretrained.params, **pretrained.state}
    encoder = Encoder.for_model(
        pretrained.model, variables, pretrained.processor, mesh=make_mesh(), batch_size=args.batch_size
    )
    return pretrained, encoder


def check_pictures(paths: Sequence[str]) -> list[Path]:
    """`paths` as files. UserError names one that is missing or a folder, before a model is read."""
    out = [Path(path) for path in paths]
    for path in out:
        if path.is_dir():
            raise UserError(f"{path}: a folder, not a picture; name the files in it")
        if not path.is_file():
            raise UserError(f"{path}: no such picture")
    return out


def logits(pretrained: "Pretrained", zimg: Any, ztxt: Any) -> Any:
    """[n, m] as the model scales them: exp(scale) and bias included."""
    import numpy as np

    scale, bias = scale_and_bias(pretrained)
    return (scale * (zimg @ ztxt.T) + (bias or 0.0)).astype(np.float32)


def finite(model: str, embeddings: Any) -> Any:
    """`embeddings` [n, E] that the model in `model` has made; UserError where any is no number."""
    import numpy as np

    if not np.isfinite(embeddings).all():
        raise UserError(f"{model}: gives embeddings that are not finite; `jvlm verify {model}` names the weights")
    return embeddings


def scale_and_bias(pretrained: "Pretrained") -> tuple[float, float | None]:
    """The factor of the similarities, and what a sigmoid model adds to them (None for a softmax model)."""
    out = pretrained.model.apply({"params": pretrained.params, **pretrained.state})
    return float(out.scale), None if out.bias is None else float(out.bias)


def write_file(path: Path, data: bytes) -> None:
    """Writes whole or not at all. UserError where the folder cannot be written."""
    from jvlm.core.files import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; columns after the first are aligned to the right. Off a terminal no cell is broken."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_escape(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, Console(width=10_000).measure(table).maximum)
    console.print(table)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
