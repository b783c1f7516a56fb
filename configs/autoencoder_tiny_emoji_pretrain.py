"""A small autoencoder of the emoji that ship with jvlm: the first stage of `ldm_tiny_emoji_pretrain.py`.

    jvlm train --config configs/autoencoder_tiny_emoji_pretrain.py --workdir runs/emoji-autoencoder

Hardware: two CPU cores. Duration: 211 s of steps, others on the machine beside it. Metric: mean absolute error
of training pictures in -1..1: 0.10.

32 pixels to 8 x 8 latents (arXiv:2112.10752, section 3.1). The latents then go to shards, which the second stage reads:

    jvlm data latents --model runs/emoji-autoencoder --output runs/emoji-latents
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size."""
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if tiny else 800
    config.batch_size = 16
    config.checkpoint_every = 2 if tiny else 1_000
    config.eval_every = 0
    config.log_every = 1 if tiny else 25
    config.init = ""
    config.export = "" if tiny else "diffusers"
    config.frozen = ()
    config.average = 0.99
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=1)
    config.writers = ()

    config.model = dict(
        family="autoencoder",
        image_size=32,
        latent_channels=4,
        widths=(8, 16) if tiny else (16, 32, 64),
        layers=1,
        attend=False,
        groups=4,
        scaling=1.0,
    )
    config.processor = dict(image=dict(kind="siglip"), tokenizer=None)
    config.task = dict(name="autoencoder", divergence=1e-5)
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(augment=dict(flip=0.5, hue=12.0))
    config.optimizer = dict(
        name="adamw", lr=2e-3, b2=0.99, clip_norm=1.0, schedule=dict(name="linear", warmup=20, end=0.02)
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict()
    return config
