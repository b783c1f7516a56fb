"""Fine-tunes a CLIP, SigLIP or ALIGN directory on one's own pictures and captions, listed in a table.

    jvlm train --config configs/clip_b32_tables_finetune.py --workdir runs/finetune \
        --config.init=DIR --config.data.path=captions.jsonl

Hardware: TPU v5e, 2x4 (8 chips, one host) or one GPU. Duration: not measured yet.
Metric: retrieval R@1 on a held-out table (evals.retrieval): not measured yet.

`init` is any directory that `jvlm.load` opens; its model, tokenizer and preprocessing replace those named below, and
the evaluation at step 0 is its own. The table is .jsonl, .csv or .tsv, with a column `image` (a file beside the table,
or under `data.images`) and a column `caption`. For a SigLIP add --config.task.kind=sigmoid.

The towers move at a tenth of the projections' rate, without decay on biases, norms and temperature (a common choice,
untried here): a small set must not undo what they know.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm, from fresh parameters."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 2_000
    config.batch_size = 512
    config.micro_batches = 1
    config.checkpoint_every = 500
    config.eval_every = 500
    config.log_every = 10
    config.init = "models/clip-vit-base-patch32"
    config.model_overrides = dict()
    config.export = "hf"
    config.frozen = ()
    config.average = 0.999
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=2)
    config.writers = ()

    config.model = dict(family="clip", variant="ViT-B/32", dtype="bfloat16", scan=True, remat="none")
    config.processor = dict(image=dict(kind="clip"), tokenizer="clip")
    config.task = dict(name="contrastive", kind="softmax")
    config.data = dict(name="table", path="data/train.jsonl")
    config.pipeline = dict(workers=8, augment=dict(crop_scale=(0.9, 1.0)))
    config.optimizer = dict(
        name="adamw",
        lr=1e-4,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.1,
        schedule=dict(name="cosine", warmup=100),
        lr_mult=(("image_tower/*", 0.1), ("text_tower/*", 0.1)),
        clip_norm=1.0,
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict(
        retrieval=dict(evaluator="retrieval", data=dict(name="table", path="data/test.jsonl")),
    )
    if arg == "tiny":
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Sizes and data of the toy run; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 16, 2, 1
    config.init = ""
    config.model = dict(
        family="clip",
        embed_dim=24,
        dtype="bfloat16",
        scan=True,
        remat="none",
        image=dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=40),
        text=dict(vocab_size=49_408, length=16, width=32, depth=2, num_heads=2, mlp_dim=64),
    )
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict(crop_scale=(0.9, 1.0)))
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.evals = dict(retrieval_style=dict())
