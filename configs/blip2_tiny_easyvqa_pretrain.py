"""BLIP-2, first stage, on easy-VQA's pictures: a small vision tower and a Q-Former learn to see, without a decoder.

    jvlm train --config configs/blip2_tiny_easyvqa_pretrain.py --workdir runs/easyvqa-stage1

Hardware: two CPU cores. Duration: 11.4 minutes, other work beside it. Metric: contrastive, matching and captioning loss
together 0.60 after 400 steps; what its tower is worth, the three runs from it say.

Contrast, matching and captioning (arXiv:2301.12597, section 3.2) of 64-pixel pictures and captions such as "a teal
circle", put together from the training questions. What BLIP-2, LLaVA and Flamingo on easy-VQA start from.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size."""
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.steps = 4 if tiny else 400
    config.batch_size = 16 if tiny else 24
    config.checkpoint_every = 2 if tiny else 1_000
    config.eval_every = 0
    config.log_every = 1 if tiny else 10
    config.init = ""
    config.export = ""
    config.frozen = ()
    config.average = None
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=1)
    config.writers = ()

    width = 32 if tiny else 128
    shape = dict(width=width, num_heads=width // 32, mlp_dim=4 * width)
    config.model = dict(
        family="blip2-pretrain",
        # Patches of 16 pixels do not tell the shapes apart within minutes.
        image=dict(shape, depth=2 if tiny else 3, patch_size=8, image_size=64, posemb_sincos=0.1),
        text=dict(shape, depth=2 if tiny else 4, num_queries=4, vocab_size=49_409, length=6),
        embed_dim=64,
    )
    config.processor = dict(image=dict(kind="siglip"), tokenizer="clip")
    config.task = dict(name="blip2-stage1", start_id=49_408, smoothing=0.0, chunk=6)
    config.data = dict(name="easy_vqa_pictures", split="train")
    # Two pictures of one caption would be each other's negatives.
    config.pipeline = dict(group="caption", augment=dict(flip=0.5, zoom=(0.8, 1.2), shift=0.1, rotate=20.0))
    config.optimizer = dict(
        name="muon", lr=0.01, adam_ratio=0.1, b2=0.98, weight_decay=0.1, schedule=dict(name="linear", warmup=20)
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    config.evals = dict()
    return config
