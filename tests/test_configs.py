"""Every run configuration: says what it is, builds at full size without memory, and traces a step at toy size."""

import ast
import json
import re
import shlex
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import jvlm
from jvlm.checkpoint.manager import Checkpoints
from jvlm.core import sharding
from jvlm.core.tree import flatten
from jvlm.data.processor import ImageSpec, Processor
from jvlm.train.config import load_config, shipped_configs, to_plain
from jvlm.train.data import make_source
from jvlm.train.evaluate import evaluator_of
from jvlm.train.loop import start
from jvlm.train.setup import Run, setup
from jvlm.train.state import TrainState, initial_state, state_shardings
from jvlm.train.step import make_step
from tests.commands import check_command
from tests.models_util import initialize

FOLDER = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "__init__.py")
# Keys that a command line may have to set: a locked configuration takes no new ones.
KEYS = {
    *("seed", "steps", "batch_size", "checkpoint_every", "log_every", "init", "export", "frozen", "average", "guard"),
    *("checkpoint", "model", "processor", "task", "data", "pipeline", "optimizer", "mesh", "evals"),
}


SMOLLM2 = 134_515_008
# Parameters of the published model, or of the published tower that the run starts from.
PUBLISHED: dict[str, tuple[str, int]] = {
    # BLIP-2's texts have 32 tokens, so 480 of BERT's 512 positions fall away.
    "blip2_vitg_laion_pretrain.py": ("", 1_172_654_910 - 480 * 768),
    # ALIGN trains on 64 tokens, so 448 of BERT's 512 positions fall away.
    "align_b7_laion_pretrain.py": ("", 172_117_841 - 448 * 768),
    # ViT classifiers without their head of 1,000 classes
    "basic_l16_laion_joint.py": ("image_tower", 304_326_632 - 1000 * 1025),
    "basic_l16_laion_locked.py": ("image_tower", 304_326_632 - 1000 * 1025),
    "lit_b16_laion_pretrain.py": ("image_tower", 86_567_656 - 1000 * 769),
    "lit_g14_laion_pretrain.py": ("image_tower", 1_012_611_432 - 1000 * 1409),
    "clip_b16_laion_pretrain.py": ("", 149_620_737),
    "clip_b32_tables_finetune.py": ("", 151_277_313),
    "clip_bigg14_laion_pretrain.py": ("", 2_539_567_105),
    "clip_l14_laion_pretrain.py": ("", 427_616_513),
    "siglip_b16_webli_pretrain.py": ("", 203_155_970),
    "llava_7b_align.py": ("", 7_063_427_072),
    # CLIP ViT-L/14 at 336 pixels; the language model's kernels are adapted.
    "llava_7b_instruct_lora.py": ("image_tower", 303_507_456),
    "blip2_opt27b_laion_align.py": ("", 3_744_761_856),
    # Llama's 7 billion, as LLaMA's paper counts them
    "flamingo_9b.py": ("text_tower", 6_738_415_616),
    "blip2_smollm_easyvqa_finetune.py": ("text_tower", SMOLLM2),
    "flamingo_smollm_easyvqa_finetune.py": ("text_tower", SMOLLM2),
    "llava_smollm_easyvqa_finetune.py": ("text_tower", SMOLLM2),
    # 16 tokens instead of the 64 of the 384-pixel release, 256 patches instead of 729
    "siglip_so400m14_webli_pretrain.py": ("", 877_960_498 - 48 * 1152 - 473 * 1152),
}
OWN = {
    "autoencoder_tiny_emoji_pretrain.py",
    "blip2_tiny_easyvqa_pretrain.py",
    "clip_tiny_emoji_pretrain.py",
    "clip_tiny_tar_pretrain.py",
    "ldm_tiny_emoji_dreambooth_lora.py",
    "ldm_tiny_emoji_pretrain.py",
    "vq_tiny_emoji_pretrain.py",
}
"""Sizes of nobody else's."""


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the smallest tokenizer that there is, for configurations that name one of the user's."""
    folder = tmp_path_factory.mktemp("vocabulary")
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "cat": 4}
    model = dict(type="WordLevel", vocab=words, unk_token="[UNK]")
    tokens = [
        dict(id=id, content=word, single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
        for word, id in words.items()
        if word.startswith("[")
    ]
    fields = dict(
        version="1.0", truncation=None, padding=None, added_tokens=tokens, normalizer=None,
        pre_tokenizer=dict(type="Whitespace"), post_processor=None, decoder=None, model=model,
    )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(pad_token="[PAD]", unk_token="[UNK]")))
    return folder


def abstract_state(run: Run) -> TrainState:
    make = partial(
        initial_state, run.task, run.optimizer, run.batch, frozen=run.frozen,
        average=run.config["average"] is not None, window=run.config["guard"]["window"],
        quantization=run.quantization, adapter=run.adapter,
    )  # fmt: skip
    return jax.eval_shape(make, jax.random.key(0))


def size(tree: object) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_every_file_ships_and_all_but_our_own_have_a_published_size() -> None:
    assert FILES == shipped_configs() == sorted([*PUBLISHED, *OWN])


@pytest.mark.parametrize("name", FILES)
def test_the_header_states_command_hardware_duration_and_metric(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert len(text.splitlines()) < 100
    header = ast.get_docstring(ast.parse(text)) or ""
    command = re.search(r"^ *(jvlm train (?:.*\\\n)*.*)$", header, re.MULTILINE)
    assert command, "no command"
    words = shlex.split(command.group(1).replace("\\\n", " "))
    check_command(words)
    assert words[words.index("--config") + 1] == f"configs/{name}"
    for word in ("Hardware:", "[Dd]uration", "[Mm]etric"):
        assert re.search(word, header), word


@pytest.mark.parametrize("name", FILES)
def test_it_is_locked_and_has_every_key(name: str) -> None:
    for spec in (name, f"{name}:tiny"):
        config = load_config(str(FOLDER / spec))
        assert config.is_locked
        assert set(config) >= KEYS


@pytest.mark.parametrize("name", FILES)
def test_the_full_size_builds_abstractly_with_the_published_parameters(name: str, vocabulary: Path) -> None:
    config = to_plain(load_config(str(FOLDER / name)))
    overrides = ["mesh.shape={'data': 4, 'fsdp': 2}"]
    if config["processor"]["tokenizer"] != "clip":
        overrides.append(f"processor.tokenizer={vocabulary}")
    run = setup(load_config(str(FOLDER / name), overrides), abstract=True)
    if name in PUBLISHED:
        part, expected = PUBLISHED[name]
        found = size(run.params[part] if part else run.params)
        assert found == expected
    state = abstract_state(run)
    trained, held, kept, all_of_it = (size(x) for x in (state.params, state.frozen, state.opt_state, run.params))
    assert trained + held == all_of_it
    assert (held > 0) == bool(run.frozen)
    # Adafactor keeps a whole first moment beside its rows and columns, Muon a momentum, AdamW and Lion one or two.
    assert kept >= trained
    shardings = state_shardings(state, run.names, run.mesh, run.rules)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    for suite, fields in run.config["evals"].items():
        evaluator_of(suite, fields)


@pytest.mark.parametrize("name", FILES)
def test_tiny_traces_a_step_on_data_that_ships(name: str) -> None:
    run = setup(load_config(str(FOLDER / f"{name}:tiny")))
    assert run.config["steps"] <= 10 and len(make_source(run.config["data"])) > 0
    for suite, fields in run.config["evals"].items():
        evaluator_of(suite, fields)
    state = abstract_state(run)
    step = make_step(
        run.task, run.optimizer,
        micro_batches=run.config.get("micro_batches", 1), average_decay=run.config["average"],
    )  # fmt: skip
    with sharding.use(run.mesh, run.rules):
        after, metrics = jax.eval_shape(step, state, run.batch, jax.random.key(0))
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, state, after)
    assert all(jax.tree.leaves(same))
    assert metrics["loss"].shape == ()


def test_lit_locks_the_tower_of_the_directory_it_starts_from(tmp_path: Path) -> None:
    fields = dict(family="vit", width=32, depth=2, num_heads=2, mlp_dim=64, patch_size=8, image_size=40, num_classes=3)
    model, variables, _ = initialize(dict(fields, eps=1e-12))
    jvlm.save(
        jvlm.Pretrained(model, variables["params"], {}, fields, Processor(ImageSpec.siglip(40)), {}), tmp_path / "vit"
    )
    spec = str(FOLDER / "lit_b16_laion_pretrain.py") + ":tiny"
    run = setup(load_config(spec, [f"init=image_tower={tmp_path / 'vit'}"]))
    with sharding.use(run.mesh, run.rules):
        state, _, _ = start(run, Checkpoints(tmp_path / "checkpoints"))
    given, held = flatten(variables["params"]), flatten(state.frozen["image_tower"])
    assert set(given) - set(held) == {"head/kernel", "head/bias"}
    for path, leaf in held.items():
        np.testing.assert_array_equal(leaf, given[path], err_msg=path)
    assert all(leaf is None for leaf in flatten(state.params["image_tower"]).values())
