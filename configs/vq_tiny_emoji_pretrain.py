"""A small VQ-VAE of the emoji that ship with jvlm: 32 pixels as 8 x 8 words of a codebook that follows averages.

    jvlm train --config configs/vq_tiny_emoji_pretrain.py --workdir runs/emoji-vq

Hardware: two CPU cores. Duration: not measured yet. Metric: mean absolute error of training pictures in -1..1 and the
perplexity of the codebook, not measured yet.

The codebook moves by exponential averages (arXiv:1711.00937, appendix A.1); `perplexity` in `metrics.jsonl` says how
many of its words a batch uses, `revived` how many were taken anew.
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
        family="vq",
        image_size=32,
        latent_channels=4,
        vocab_size=32 if tiny else 256,
        code_dim=4,
        averaged=True,
        widths=(8, 16) if tiny else (16, 32, 64),
        layers=1,
        attend=False,
        groups=4,
    )
    config.processor = dict(image=dict(kind="siglip"), tokenizer=None)
    config.task = dict(name="codebook-autoencoder", decay=0.99)
    config.data = dict(name="emoji", split="train", captions="training")
    config.pipeline = dict(augment=dict(flip=0.5, hue=12.0))
    config.optimizer = dict(
        name="adamw", lr=2e-3, b2=0.99, clip_norm=1.0, schedule=dict(name="linear", warmup=20, end=0.02)
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict()
    return config
