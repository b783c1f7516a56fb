"""BLIP-2, first stage: a Q-Former learns to read a frozen ViT-g/14, by contrast, matching and captioning.

    jvlm train --config configs/blip2_vitg_laion_pretrain.py --workdir gs://your-bucket/blip2-vitg \
        --config.init=image_tower=DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: COCO retrieval recall at 1 after fine-tuning: not measured yet.

BLIP-2 (arXiv:2301.12597, section 3.4): 32 queries, BERT-base, ViT-g/14 of EVA-CLIP without its last layer, texts of
32 tokens, 250,000 steps of 1,680 (here 1,792, which 256 chips divide), AdamW with betas 0.9 and 0.98, decay 0.05, peak
rate 1e-4, warm-up of 2,000 steps, cosine to 5e-5. One mixture of its pictures (129 million) stands for LAION and the
captioned sets. Its text branch starts from BERT, here from noise.

`init` is `image_tower=` and a directory of the tower; `processor.tokenizer` a directory with BERT's vocabulary.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm, its frozen tower untrained."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 250_000
    config.batch_size = 1_792
    config.micro_batches = 1
    config.checkpoint_every = 1_000
    config.eval_every = 10_000
    config.log_every = 50
    config.init = "image_tower=models/eva-vit-g-14"
    config.export = ""
    config.frozen = ("image_tower/*",)
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3, keep_every=10_000)
    config.writers = ()

    config.model = dict(
        family="blip2-pretrain",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(width=1408, depth=39, num_heads=16, mlp_dim=6144, patch_size=14, image_size=224),
        text=dict(
            num_queries=32, width=768, depth=12, num_heads=12, mlp_dim=3072, vocab_size=30_523, length=32, dropout=0.1
        ),
    )
    config.processor = dict(image=dict(kind="clip"), tokenizer="models/bert-base-uncased")
    config.task = dict(name="blip2-stage1", start_id=30_522, options=dict(form="ring", dot_dtype="bfloat16"))
    config.data = dict(name="tar", paths="gs://your-bucket/blip2/*.tar")
    config.pipeline = dict(workers=16, augment=dict())
    config.optimizer = dict(
        name="adamw",
        lr=1e-4,
        b1=0.9,
        b2=0.98,
        weight_decay=0.05,
        schedule=dict(name="cosine", warmup=2_000),
        clip_norm=1.0,
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict()
    if arg == "tiny":
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Sizes and data of the toy run; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 16, 2, 1
    config.init = ""
    image = dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=40)
    text = dict(num_queries=4, width=32, depth=2, num_heads=2, mlp_dim=64, vocab_size=49_409, length=16)
    config.update(model=dict(image=image, text=text))
    config.processor.tokenizer = "clip"
    config.task.start_id = 49_408
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict())
    config.update(optimizer=dict(schedule=dict(warmup=1)))
