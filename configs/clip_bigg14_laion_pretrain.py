"""CLIP ViT-bigG/14 from scratch on LAION-2B, 32 billion pairs with half of the patches dropped.

    jvlm train --config configs/clip_bigg14_laion_pretrain.py --workdir gs://your-bucket/clip-bigg14

Hardware: TPU v5p, 8x8x4 (256 chips). Duration: not measured yet.
Metric: ImageNet zero-shot top-1 (evals.imagenet): not measured yet; 0.801 published, after a further unmasked run.

Batch (160k), number of pairs and patch dropout (FLIP, arXiv:2212.00794) are those of the OpenCLIP release
(laion.ai/blog/giant-openclip). Rate and decay are OpenCLIP's for ViT-g/14 at a batch of 88k; beta2 and warm-up are
this file's and untried. The unmasked run that follows in the release: --config.init=DIR
--config.model_overrides='{"image": {"patch_dropout": 0.0}}' --config.optimizer.lr=5.5e-5 --config.steps=24414
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 195_313
    config.batch_size = 163_840
    config.micro_batches = 2
    config.checkpoint_every = 1_000
    config.eval_every = 10_000
    config.log_every = 20
    config.init = ""
    config.model_overrides = dict()
    config.export = ""
    config.frozen = ()
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3, keep_every=10_000)
    config.writers = ()

    config.model = dict(
        family="clip",
        variant="ViT-bigG/14",
        image=dict(patch_dropout=0.5),
        dtype="bfloat16",
        scan=True,
        remat="full",
    )
    config.processor = dict(image=dict(kind="clip"), tokenizer="clip")
    config.task = dict(name="contrastive", kind="softmax", form="ring", dot_dtype="bfloat16")
    config.data = dict(name="tar", paths="gs://your-bucket/laion2b/*.tar")
    config.pipeline = dict(workers=32, augment=dict(crop_scale=(0.9, 1.0)))
    config.optimizer = dict(
        name="adamw",
        lr=1e-3,
        b1=0.9,
        b2=0.95,
        eps=1e-6,
        weight_decay=0.2,
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
    config.export = "hf"
    config.model = dict(
        family="clip",
        embed_dim=24,
        act="gelu",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=40, patch_dropout=0.5),
        text=dict(vocab_size=49_408, length=16, width=32, depth=2, num_heads=2, mlp_dim=64),
    )
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict(crop_scale=(0.9, 1.0)))
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(fsdp=-1))
    config.evals = dict(retrieval_style=dict())
