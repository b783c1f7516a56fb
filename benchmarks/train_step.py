"""Training step of CLIP on the CPU: jvlm against open_clip on torch, the same shapes, batch and precision.

    python benchmarks/train_step.py [--model demo] [--batch 128] [--pairs 7] [--cores 2] [--parts]

A step is what a training repeats: both towers, the softmax loss over the batch, gradients, AdamW with decay on
matrices, the loss read back. jvlm runs `train/step.py` as `jvlm train` compiles it, its guard and gradient norm
included; torch runs open_clip's CLIP and ClipLoss with AdamW fused, in float32 like jvlm. Models: `demo` (that of
`make demo`), `small`, and the published names of `models/clip.py`. `--parts` also times the forward pass and the
gradients alone. Prints one JSON object.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import pairs

LR, DECAY, B1, B2, EPS = 5e-4, 0.2, 0.9, 0.98, 1e-6


def _towers(width: int, depth: int, patch: int, size: int, text_depth: int, length: int, vocab: int) -> dict[str, Any]:
    heads = width // 64
    return dict(
        embed_dim=width,
        image=dict(width=width, depth=depth, num_heads=heads, mlp_dim=4 * width, patch_size=patch, image_size=size),
        text=dict(
            vocab_size=vocab, length=length, width=width, depth=text_depth, num_heads=heads, mlp_dim=4 * width,
            eos_id=vocab - 1,
        ),
    )  # fmt: skip


DEMO: dict[str, Any] = dict(
    embed_dim=128,
    act="gelu",
    image=dict(width=128, depth=4, num_heads=8, mlp_dim=512, patch_size=16, image_size=48),
    text=dict(vocab_size=49408, length=16, width=64, depth=1, num_heads=4, mlp_dim=256, eos_id=49407),
)
MODELS: dict[str, dict[str, Any]] = {
    "demo": DEMO,
    "small": _towers(384, 6, 16, 128, 6, 32, 49408),
    "toy": _towers(64, 1, 8, 16, 1, 8, 64),
}
BATCHES = {"demo": 128, "small": 64, "toy": 8}


def fields_of(name: str) -> dict[str, Any]:
    """The fields of jvlm's CLIP for a model of this benchmark or a published one."""
    from jvlm import models

    config = {"family": "clip", "variant": name} if name not in MODELS else {"family": "clip", **MODELS[name]}
    return models.fields(config)


def make_batch(fields: dict[str, Any], batch: int) -> dict[str, np.ndarray]:
    """Noise for pictures, random texts of natural lengths ending in the end token."""
    rng = np.random.default_rng(0)
    size, text = fields["image"]["image_size"], fields["text"]
    image = rng.standard_normal((batch, size, size, 3), np.float32)
    end, length = text["vocab_size"] - 1, text["length"]
    tokens = rng.integers(1, end, (batch, length), np.int32)
    ends = rng.integers(min(6, length - 1), min(20, length), batch)
    tokens[np.arange(length) > ends[:, None]] = 0
    tokens[np.arange(batch), ends] = end
    return dict(image=image, tokens=tokens)


Parts = dict[str, Callable[[], Any]]


def jvlm_side(fields: dict[str, Any], batch: dict[str, np.ndarray]) -> Parts:
    """`step`, which moves a state along, and the `forward` and `gradients` that it contains."""
    import jax
    import jax.numpy as jnp

    from jvlm import models
    from jvlm.tasks.contrastive import Contrastive
    from jvlm.train.optim import make_optimizer
    from jvlm.train.state import initial_state, task_variables
    from jvlm.train.step import make_step

    model: Any = models.create({"family": "clip", **fields, "scan": False})
    task = Contrastive(model)
    arrays = {key: jnp.asarray(value) for key, value in batch.items()}
    config = dict(name="adamw", lr=LR, schedule=dict(name="constant"), weight_decay=DECAY, b1=B1, b2=B2, eps=EPS)
    optimizer, _ = make_optimizer(config, task_variables(task, arrays)[0], steps=1000)
    key = jax.random.key(0)
    state = jax.jit(lambda key: initial_state(task, optimizer, arrays, key))(key)
    advance = jax.jit(make_step(task, optimizer), donate_argnums=0)

    def loss(params: Any, batch: Any) -> jax.Array:
        out = task.loss(params, {}, batch, key)
        return out.sum / out.weight

    value, slope = jax.jit(loss), jax.jit(jax.value_and_grad(loss))

    def step() -> float:
        nonlocal state
        state, metrics = advance(state, arrays, key)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return dict(
        step=step,
        forward=lambda: float(value(state.params, arrays)),
        gradients=lambda: jax.block_until_ready(slope(state.params, arrays)),
    )


def torch_side(fields: dict[str, Any], batch: dict[str, np.ndarray], cores: int) -> Parts:
    """The same of open_clip, as its training loop writes it."""
    from tests.reference_open_clip import open_clip, torch

    torch.set_num_threads(cores)
    image, text = fields["image"], fields["text"]
    build: Any = open_clip.model.CLIP  # its annotations ask for classes where it takes dicts
    model = build(
        embed_dim=fields["embed_dim"],
        vision_cfg=dict(
            layers=image["depth"],
            width=image["width"],
            head_width=image["width"] // image["num_heads"],
            patch_size=image["patch_size"],
            image_size=image["image_size"],
        ),
        text_cfg=dict(
            context_length=text["length"],
            vocab_size=text["vocab_size"],
            width=text["width"],
            heads=text["num_heads"],
            layers=text["depth"],
        ),
        quick_gelu=fields.get("act", "quick_gelu") == "quick_gelu",
        output_dict=True,
    )
    criterion = open_clip.ClipLoss()
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or "ln" in name or "logit_scale" in name]
    matrices = [p for p in model.parameters() if not any(p is q for q in plain)]
    groups = [dict(params=plain, weight_decay=0.0), dict(params=matrices, weight_decay=DECAY)]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(B1, B2), eps=EPS, fused=True)
    images = torch.from_numpy(batch["image"].transpose(0, 3, 1, 2).copy())
    tokens = torch.from_numpy(batch["tokens"]).long()

    def loss() -> Any:
        return criterion(**model(images, tokens))

    def forward() -> float:
        with torch.inference_mode():
            return loss().item()

    def gradients() -> None:
        optimizer.zero_grad()
        loss().backward()

    def step() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return value.item()

    return dict(step=step, forward=forward, gradients=gradients)


def measure(name: str, batch: int, repeats: int, cores: int, parts: bool) -> dict[str, Any]:
    """The report that the command prints."""
    fields = fields_of(name)
    arrays = make_batch(fields, batch)
    ours, theirs = jvlm_side(fields, arrays), torch_side(fields, arrays, cores)
    losses = ours["step"](), theirs["step"]()
    report: dict[str, Any] = {"benchmark": "train_step", "model": name, "batch": batch, "cores": cores}
    report |= {"precision": "float32", "pairs": repeats, "first_loss": [round(x, 4) for x in losses]}
    for part in ("forward", "gradients", "step") if parts else ("step",):
        report[part] = pairs.alternate(ours[part], theirs[part], repeats)
    report["last_loss"] = [round(side["step"](), 4) for side in (ours, theirs)]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, small, toy or a published name, as ViT-B/32")
    parser.add_argument("--batch", type=int, help="default: 128 for demo, 64 for small, else 16")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--parts", action="store_true")
    args = parser.parse_args()
    pairs.hold_cores(args.cores)
    batch = args.batch or BATCHES.get(args.model, 16)
    print(json.dumps(measure(args.model, batch, args.pairs, args.cores, args.parts)))


if __name__ == "__main__":
    main()
