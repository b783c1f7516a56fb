"""CLIP ViT-B/16 from scratch on LAION, 12.8 billion pairs.

    jvlm train --config configs/clip_b16_laion_pretrain.py --workdir gs://your-bucket/clip-b16

Hardware: TPU v5e, 8x8 (64 chips). Duration: not measured yet.
Metric: ImageNet zero-shot top-1 (evals.imagenet): not measured yet; 0.683 published for OpenAI's own pairs.

Batch, rate, beta2, epsilon, decay, warm-up and the number of pairs are CLIP's (arXiv:2103.00020, tables 18 and 20: 32
epochs of 400 million). Crops and activation are OpenCLIP's.

`data.paths` are tar shards as img2dataset writes them; index them once with `jvlm data pack --index`. The shards of
`imagenet` hold the label as .cls and the class name as .txt.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 390_625
    config.batch_size = 32_768
    config.micro_batches = 1
    config.checkpoint_every = 2_000
    config.eval_every = 20_000
    config.log_every = 50
    config.init = ""
    config.export = ""
    config.frozen = ()
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3, keep_every=20_000)
    config.writers = ()

    config.model = dict(family="clip", variant="ViT-B/16", act="gelu", dtype="bfloat16", scan=True, remat="full")
    config.processor = dict(image=dict(kind="clip"), tokenizer="clip")
    config.task = dict(name="contrastive", kind="softmax", form="ring", dot_dtype="bfloat16")
    config.data = dict(name="tar", paths="gs://your-bucket/laion/*.tar")
    config.pipeline = dict(workers=16, augment=dict(crop_scale=(0.9, 1.0)))
    config.optimizer = dict(
        name="adamw",
        lr=5e-4,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.2,
        schedule=dict(name="cosine", warmup=2_000),
        clip_norm=1.0,
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict(
        imagenet=dict(evaluator="zero_shot", data=dict(name="tar", paths="gs://your-bucket/imagenet-val/*.tar")),
        coco=dict(evaluator="retrieval", data=dict(name="tar", paths="gs://your-bucket/coco-val/*.tar")),
    )
    if arg == "tiny":
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Sizes and data of the toy run; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 16, 2, 1
    config.export = "hf"
    config.model = dict(
        family="clip",
        embed_dim=24,
        act="gelu",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=40),
        text=dict(vocab_size=49_408, length=16, width=32, depth=2, num_heads=2, mlp_dim=64),
    )
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict(crop_scale=(0.9, 1.0)))
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(fsdp=-1))
    config.evals = dict(retrieval_style=dict())
