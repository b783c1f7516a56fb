"""DreamBooth with LoRA on the emoji: five drawings of a rabbit's face as a word of its own, the class kept beside it.

    jvlm train --config configs/ldm_tiny_emoji_dreambooth_lora.py --workdir runs/emoji-dreambooth

Hardware: two CPU cores. Duration: not measured yet. Metric: none, the pictures themselves
(`jvlm paint --model runs/emoji-dreambooth --prompt "sks rabbit face"`).

It starts from `make emoji-diffusion`, which never saw that concept. Half of each batch is the subject, half pictures of
other emoji under their own names, which keep what a name means (prior preservation, arXiv:2208.12242, section 3.2);
`jvlm export runs/emoji-dreambooth OUT --format diffusers-lora` writes the file that diffusers loads.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size, from noise."""
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if tiny else 300
    config.batch_size = 8 if tiny else 16
    config.checkpoint_every = 2 if tiny else 100
    config.eval_every = 0
    config.log_every = 1 if tiny else 10
    config.init = "" if tiny else "runs/emoji-diffusion"
    config.export = ""
    config.frozen = ()
    config.average = None
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=1)
    config.writers = ()

    # That of `ldm_tiny_emoji_pretrain.py`.
    config.model = dict(
        family="latent-diffusion",
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
    config.task = dict(name="latent-diffusion", caption_dropout=0.1, min_snr=5.0)
    subject = dict(name="emoji", split="concepts", label=230, prompts=("sks rabbit face",), weight=1.0)
    kin = dict(name="emoji", split="train", captions="name", loss_weight=1.0, weight=1.0)
    config.data = dict(mixture=(subject, kin))
    config.pipeline = dict(augment=dict(flip=0.5))
    config.adapter = dict(kind="lora", rank=8, alpha=8, targets=("unet/*attn/*/kernel", "unet/*cross/*/kernel"))
    config.optimizer = dict(name="adamw", lr=1e-3, clip_norm=1.0, schedule=dict(name="linear", warmup=10, end=1.0))
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict()
    return config
