"""What the verbs that write share: the model as an answerer, and one prompt with its pictures to texts."""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jvlm.cli.numbers import number, whole
from jvlm.core.errors import ConfigError

if TYPE_CHECKING:
    from jvlm.evals.answerer import Prompt
    from jvlm.evals.answering import ModelAnswerer


def add_writing_arguments(parser: argparse.ArgumentParser, max_new_tokens: int) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1),
        default=max_new_tokens,
        metavar="N",
        help=f"length of a text ({max_new_tokens})",
    )
    parser.add_argument(
        "--temperature", type=number(0), default=0.0, metavar="T", help="0 takes the likeliest token (0)"
    )
    parser.add_argument("--top-k", type=whole(0), default=0, metavar="K", help="draw from the K likeliest (0: all)")
    parser.add_argument(
        "--top-p", type=number(most=1, above=0), default=1.0, metavar="P", help="draw from the likeliest P (1.0)"
    )
    parser.add_argument(
        "--repetition-penalty", type=number(above=0), default=1.0, metavar="R", help="above 1: repeat less (1.0)"
    )
    parser.add_argument("--num-beams", type=whole(1), default=1, metavar="B", help="width of a beam search (1: none)")
    parser.add_argument("--stop", nargs="+", default=[], metavar="S", help="strings that end a text")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn (0)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision (float32)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def check_writing(args: argparse.Namespace) -> None:
    """ConfigError for a choice that makes no sense, before a model is read."""
    if args.num_beams > 1 and (args.temperature or args.stop):
        raise ConfigError("a beam search draws nothing and knows no stop strings; leave --temperature and --stop out")


def load_answerer(args: argparse.Namespace, raw: bool = False, unrolled: bool | None = None) -> "ModelAnswerer":
    """The model of `--model` with its preprocessing; `raw` leaves its chat template out, `unrolled` as Generator's."""
    import jax.numpy as jnp

    from jvlm.evals.answering import ModelAnswerer
    from jvlm.generate.prompts import ends
    from jvlm.train.pretrained import load
    from jvlm.train.runtime import start

    start()
    pretrained = load(args.model)
    model = pretrained.model
    dtype = getattr(args, "dtype", None)
    if dtype is not None and hasattr(model, "prefill"):
        model = in_dtype(model, jnp.dtype(dtype))
    tokenizer = pretrained.processor.tokenizer
    stops = ends(pretrained.generation, pretrained.published, tokenizer) if tokenizer is not None else []
    return ModelAnswerer(
        model, {"params": pretrained.params, **pretrained.state}, pretrained.processor, stops,
        batch_size=getattr(args, "batch_size", 16), where=args.model, raw=raw, unrolled=unrolled,
    )  # fmt: skip


def in_dtype(model: Any, dtype: Any) -> Any:
    """`model` computing in `dtype`; of one that sees, its language model."""
    if hasattr(model, "text_tower"):
        return model.clone(text_tower=model.text_tower.clone(dtype=dtype))
    return model.clone(dtype=dtype)


def texts(
    args: argparse.Namespace, answerer: "ModelAnswerer", prompts: "Sequence[Prompt]", every: int | None = None
) -> Iterator[list[list[int]]]:
    """The tokens of each prompt's text so far, every so many; all prompts have as many pictures."""
    from jvlm.generate.sampling import sampling

    encoded = [answerer.encode(prompt) for prompt in prompts]
    inputs = answerer.inputs(prompts, encoded, len(prompts))
    how = sampling(args.temperature, args.top_k, args.top_p, args.repetition_penalty)
    generator = answerer.generator
    if args.num_beams > 1:
        yield generator.beams_inputs(inputs, args.max_new_tokens, args.num_beams, how=how)
        return
    options: dict[str, Any] = dict(how=how, seed=args.seed, stop=args.stop, decode=answerer.tokenizer.decode)
    yield from generator.stream_inputs(inputs, args.max_new_tokens, every=every, **options)
