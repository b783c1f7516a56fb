"""SigLIP So400m/14 from scratch on WebLI, or on any image-text shards: 9 billion pairs, sigmoid loss.

    jvlm train --config configs/siglip_so400m14_webli_pretrain.py --workdir gs://your-bucket/siglip-so400m14

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: ImageNet zero-shot top-1 (evals.imagenet): not measured yet; 0.822 published.

Loss, model, initial scale 10 and bias -10, batch 32k and beta2 0.95 after SigLIP (arXiv:2303.15343), the shape after
arXiv:2305.13035; rate, decay and warm-up after SigLIP 2 (arXiv:2502.14786). There the decay of 1e-4 does not scale with
the rate of 1e-3; here it does, so it reads 0.1.

WebLI is not public: point `data.paths` at shards of your own. `processor.tokenizer` is a local directory that holds a
32,000-piece SentencePiece model (spiece.model), for instance that of a published SigLIP.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 274_658
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

    config.model = dict(family="siglip", variant="So400m/14", dtype="bfloat16", scan=True, remat="full")
    config.processor = dict(image=dict(kind="siglip"), tokenizer="models/siglip-so400m-patch14-224")
    config.task = dict(name="contrastive", kind="sigmoid", form="ring", dot_dtype="bfloat16")
    config.data = dict(name="tar", paths="gs://your-bucket/webli/*.tar")
    config.pipeline = dict(workers=16, augment=dict())
    config.optimizer = dict(
        name="adamw",
        lr=1e-3,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.1,
        schedule=dict(name="cosine", warmup=20_000),
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
    """Sizes and data of the toy run, with the vocabulary that ships with jvlm; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 4, 16, 2, 1
    config.export = "hf"
    config.model = dict(
        family="siglip",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=40),
        text=dict(vocab_size=49_408, length=16, width=32, depth=2, num_heads=2, mlp_dim=64),
    )
    config.update(processor=dict(tokenizer="clip"))
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(group="concept", augment=dict())
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(fsdp=-1))
    config.evals = dict(retrieval_style=dict())
