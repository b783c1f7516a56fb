"""LiT: a text tower of the same size learns to read the image tower of a trained ViT-g/14, which stays locked.

    jvlm train --config configs/lit_g14_laion_pretrain.py --workdir gs://your-bucket/lit-g14 \
        --config.init=image_tower=DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: ImageNet zero-shot top-1 (evals.imagenet): not measured yet; 0.852 published, on pictures of 288 pixels.

LiT (arXiv:2111.07991): locked image tower without a head of its own, text tower from scratch with a linear head,
softmax at initial scale 10, texts of 16 tokens, rate 1e-3; its largest model sees 18 billion pairs in batches of
32,768. Its decay of 1e-4 does not scale with the rate, here it does, so it reads 0.1. AdamW stands for its Adafactor,
CLIP's vocabulary for its SentencePiece.

`init` is `image_tower=` and a transformers ViT directory, whose pictures are squashed to 224 and scaled to -1..1.
No published format holds this model; `jvlm.load` and every verb open the workdir itself.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm, its locked tower untrained."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 549_317
    config.batch_size = 32_768
    config.micro_batches = 1
    config.checkpoint_every = 2_000
    config.eval_every = 20_000
    config.log_every = 50
    config.init = "image_tower=models/vit-giant-patch14-224"
    config.export = ""
    config.frozen = ("image_tower/*",)
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3, keep_every=20_000)
    config.writers = ()

    tower = dict(width=1408, depth=40, num_heads=16, mlp_dim=6144)
    config.model = dict(
        family="siglip",
        bias_init=None,
        act="gelu",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(tower, patch_size=14, image_size=224, pool="cls", class_token=True, eps=1e-12),
        text=dict(tower, vocab_size=49_408, length=16),
    )
    config.processor = dict(image=dict(kind="siglip", interpolation="bilinear"), tokenizer="clip")
    config.task = dict(name="contrastive", kind="softmax", form="ring", dot_dtype="bfloat16")
    config.data = dict(name="tar", paths="gs://your-bucket/laion/*.tar")
    config.pipeline = dict(workers=16, augment=dict())
    config.optimizer = dict(
        name="adamw",
        lr=1e-3,
        b1=0.9,
        b2=0.999,
        weight_decay=0.1,
        schedule=dict(name="cosine", warmup=10_000),
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
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 16, 2, 1
    config.init = ""
    tower = dict(width=32, depth=2, num_heads=2, mlp_dim=64)
    config.update(model=dict(image=dict(tower, patch_size=8, image_size=40), text=tower))
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict())
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(fsdp=-1))
    config.evals = dict(retrieval_style=dict())
