"""BASIC, third phase: both towers of `basic_l16_laion_locked.py` go on together at a small rate.

    jvlm train --config configs/basic_l16_laion_joint.py --workdir gs://your-bucket/basic-joint \
        --config.init=DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: ImageNet zero-shot top-1 (evals.imagenet): not measured yet.

BASIC (arXiv:2111.10050), after the text tower has been trained beside a locked image tower. Batch 65,536 in
micro-batches whose loss is that of the whole batch. Rate, decay, warm-up and the number of steps are this file's and
untried.

`init` is the workdir of the second phase, copied to a local disk; its model and preprocessing go on here.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm, from fresh parameters."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 20_000
    config.batch_size = 65_536
    config.micro_batches = 8
    config.checkpoint_every = 1_000
    config.eval_every = 5_000
    config.log_every = 50
    config.init = "runs/basic-locked"
    config.export = ""
    config.frozen = ()
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3, keep_every=5_000)
    config.writers = ()

    tower = dict(width=1024, depth=24, num_heads=16, mlp_dim=4096)
    config.model = dict(
        family="siglip",
        bias_init=None,
        act="gelu",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(tower, patch_size=16, image_size=224, pool="cls", class_token=True, eps=1e-12),
        text=dict(tower, vocab_size=49_408, length=64),
    )
    config.processor = dict(image=dict(kind="siglip", interpolation="bilinear"), tokenizer="clip")
    config.task = dict(name="contrastive", kind="softmax", form="ring", dot_dtype="bfloat16")
    config.data = dict(name="tar", paths="gs://your-bucket/laion/*.tar")
    config.pipeline = dict(workers=16, augment=dict())
    config.optimizer = dict(
        name="adafactor",
        lr=2e-5,
        b1=0.9,
        weight_decay=0.1,
        schedule=dict(name="cosine", warmup=1_000),
        clip_norm=1.0,
    )
    config.mesh = dict(preset="fsdp", shape=dict(data=16, fsdp=16))
    config.evals = dict(
        imagenet=dict(evaluator="zero_shot", data=dict(name="tar", paths="gs://your-bucket/imagenet-val/*.tar")),
        coco=dict(evaluator="retrieval", data=dict(name="tar", paths="gs://your-bucket/coco-val/*.tar")),
    )
    if arg == "tiny":
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Sizes and data of the toy run; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 64, 2, 1
    config.init = ""
    tower = dict(width=32, depth=2, num_heads=2, mlp_dim=64)
    config.update(model=dict(image=dict(tower, patch_size=8, image_size=40), text=dict(tower, length=16)))
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict())
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(fsdp=-1))
    config.evals = dict(retrieval_style=dict())
