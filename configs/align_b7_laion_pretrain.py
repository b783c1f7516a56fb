"""ALIGN with EfficientNet-B7 and BERT-Base from scratch, 19.7 billion pairs.

    jvlm train --config configs/align_b7_laion_pretrain.py --workdir gs://your-bucket/align-b7

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: ImageNet zero-shot top-1 (evals.imagenet): not measured yet.

ALIGN (arXiv:2102.05918): batch 16,384, 1.2 million steps, rate 1e-3 after a warm-up of 10,000 steps and falling
linearly to 0, texts of 64 tokens, initial temperature 1, pictures of 346 pixels cropped at random to 289 and mirrored.
The towers are those of the open reproduction. It has LAMB with a decay of 1e-5 and label smoothing of 0.1; here it is
AdamW with that decay, and no smoothing. Batch statistics are those of the whole batch.

`processor.tokenizer` is a local directory with BERT's uncased vocabulary (tokenizer.json or vocab.txt).
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 1_200_000
    config.batch_size = 16_384
    config.micro_batches = 1
    config.checkpoint_every = 5_000
    config.eval_every = 50_000
    config.log_every = 100
    config.init = ""
    config.export = ""
    config.frozen = ()
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3, keep_every=50_000)
    config.writers = ()

    config.model = dict(family="align", variant="base", text=dict(length=64), dtype="bfloat16", scan=True, remat="full")
    config.processor = dict(image=dict(kind="siglip"), tokenizer="models/bert-base-uncased")
    config.task = dict(name="contrastive", kind="softmax", form="two_level", dot_dtype="bfloat16")
    config.data = dict(name="tar", paths="gs://your-bucket/laion/*.tar")
    config.pipeline = dict(workers=16, augment=dict(crop_scale=(0.7, 0.7), crop_ratio=(1.0, 1.0), flip=0.5))
    config.optimizer = dict(
        name="adamw",
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        weight_decay=1e-5,
        schedule=dict(name="linear", warmup=10_000),
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
    """Sizes and data of the toy run, with the vocabulary that ships with jvlm; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 16, 2, 1
    config.export = "hf"
    stages = [[3, 16, 1, 1, 1], [3, 48, 2, 1, 4]]
    config.model = dict(
        family="align",
        embed_dim=24,
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(image_size=40, width_mult=0.5, depth_mult=1.0, stages=stages),
        text=dict(vocab_size=49_408, length=16, width=32, depth=2, num_heads=2, mlp_dim=64, pad_id=49_407),
    )
    config.update(processor=dict(tokenizer="clip"))
    config.data = dict(name="emoji", split="train", captions="training")
    config.update(pipeline=dict(workers=0, group="concept"))
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.evals = dict(retrieval_style=dict())
