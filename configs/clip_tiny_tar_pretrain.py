"""CLIP from scratch on one's own pictures and captions, small enough for a laptop: the way from a folder to a model.

    jvlm data pack pictures.csv shards/
    jvlm train --config configs/clip_tiny_tar_pretrain.py --workdir runs/mine --config.data.paths='shards/*.tar'

Hardware: two CPU cores. Duration: not measured yet.
Metric: retrieval R@1 on shards held out (evals.retrieval): it depends on the data.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm."""
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if tiny else 2_000
    config.batch_size = 16 if tiny else 128
    config.checkpoint_every = 2 if tiny else 500
    config.log_every = 1 if tiny else 10
    config.init = ""
    config.export = "hf"
    config.frozen = ()
    config.average = None
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=2)

    width = 32 if tiny else 192
    config.model = dict(
        family="clip",
        embed_dim=width,
        act="gelu",
        # Unrolled, which a CPU runs faster.
        scan=False,
        image=dict(
            width=width,
            depth=2 if tiny else 6,
            num_heads=width // 32,
            mlp_dim=4 * width,
            patch_size=16,
            image_size=32 if tiny else 64,
        ),
        text=dict(
            vocab_size=49408,
            length=16 if tiny else 32,
            width=width,
            depth=2,
            num_heads=width // 32,
            mlp_dim=4 * width,
            eos_id=49407,
            pool="eos",
        ),
    )
    config.processor = dict(image=dict(kind="clip"), tokenizer="clip")
    config.task = dict(name="contrastive", kind="softmax")
    config.data = dict(name="tar", paths="shards/*.tar")
    config.pipeline = dict(augment=dict(crop_scale=(0.6, 1.0), flip=0.5))
    config.optimizer = dict(
        name="adamw",
        lr=1e-3,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.1,
        schedule=dict(name="cosine", warmup=1 if tiny else 100),
        clip_norm=1.0,
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict(retrieval=dict(evaluator="retrieval", data=dict(name="tar", paths="held_out/*.tar")))
    if tiny:
        config.data = dict(name="emoji", split="train", captions="training")
        config.pipeline = dict(group="concept", augment=dict(crop_scale=(0.6, 1.0), flip=0.5))
        config.evals = dict(retrieval_style=dict())
    return config
