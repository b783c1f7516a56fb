"""Text to emoji: a small latent diffusion model, from the demo's CLIP and an autoencoder of its pictures.

    jvlm train --config configs/ldm_tiny_emoji_pretrain.py --workdir runs/emoji-diffusion

Hardware: two CPU cores. Duration: 18.6 minutes, autoencoder and compilation included and the demo not, with one of the
cores mostly taken by others; 19.4 minutes of CPU time. Metric, 100 names of the demo's emoji (clip_score_emoji): 0.58
under the demo's CLIP, 0.493 (0.461 to 0.526) above shuffled prompts; the right one of 100 among its first 10 for 94 %.
That run was interrupted after 506 steps, of 2,400 then planned, and went on with 1,200.

`make emoji-diffusion` is the whole of it: `make demo`, whose text tower it listens to and whose CLIP judges its
pictures, then `autoencoder_tiny_emoji_pretrain.py`, whose header says how its latents get into shards.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size, from noise and pictures."""
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if tiny else 1200
    config.batch_size = 16 if tiny else 32
    config.checkpoint_every = 2 if tiny else 1_000
    config.eval_every = 400
    config.log_every = 1 if tiny else 10
    config.init = "vae=runs/emoji-autoencoder,text/text_tower=runs/demo#text_tower"
    config.export = "" if tiny else "diffusers"
    config.frozen = ("vae/*", "text/*")
    config.average = 0.997
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=1)
    config.writers = ()

    config.model = dict(
        family="latent-diffusion",
        # Unrolled, which a CPU runs faster.
        scan=False,
        unet=dict(
            image_size=8,
            widths=(16, 32) if tiny else (64, 128),
            layers=1,
            depths=(1, 1),
            num_heads=(2, 4),
            context_dim=64,
            context_length=16,
            groups=8,
        ),
        vae=dict(image_size=32, latent_channels=4, widths=(16, 32, 64), layers=1, attend=False, groups=4,
                 scaling=0.77),
        text=dict(
            vocab_size=49408, length=16, width=64, depth=1, num_heads=4, mlp_dim=256, act="gelu", eos_id=49407,
            pool="eos",
        ),
        schedule=dict(kind="cosine", prediction="v"),
    )  # fmt: skip
    config.processor = dict(image=dict(kind="siglip"), tokenizer="clip")
    config.task = dict(name="latent-diffusion", caption_dropout=0.1, min_snr=5.0, cached=True)
    # Their names alone: the shards hold captions with tags as well, under another key.
    config.data = dict(name="tar", paths="runs/emoji-latents", caption_keys=("caption",))
    config.pipeline = dict()
    config.optimizer = dict(
        name="adamw", lr=1e-3, b2=0.99, weight_decay=0.01, clip_norm=1.0, schedule=dict(name="linear", warmup=50)
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    prompts = dict(name="emoji", split="style", captions="name")
    config.evals = dict(
        clip_score_emoji=dict(
            evaluator="clip_score", judge="runs/demo/export", data=prompts, limit=100, steps=20, guidance=3.0
        )
    )
    if tiny:
        config.init, config.evals = "", dict()
        config.data = dict(name="emoji", split="train")
        config.update(task=dict(cached=False))
    return config
