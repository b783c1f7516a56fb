"""Adapter runs: only the adapter is trained and stored, the base is found again and checked, dropout repeats."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jvlm
from jvlm.checkpoint.parts import read_parts
from jvlm.core.errors import ConfigError, UserError
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten
from jvlm.train.loop import train
from jvlm.transforms.adapters import adapter_names, merge
from jvlm.transforms.lora import Lora
from jvlm.transforms.qtensor import QTensor
from tests.train.cases import toy_config

LORA = "adapter={'kind': 'lora', 'rank': 2, 'dropout': 0.2, 'targets': ['*attn/query/kernel']}"
RUN = ("steps=4", "checkpoint_every=2", "checkpoint={'keep_last': 9}", "optimizer.schedule.warmup=0")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model as a transformers directory."""
    folder = tmp_path_factory.mktemp("base")
    train(toy_config("steps=2", "export=hf"), str(folder / "run"), quiet=True)
    return folder / "run" / "export"


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(toy_config(*RUN, LORA, f"init={base}"), str(folder), quiet=True)
    return folder


def stored(workdir: Path) -> dict[str, Any]:
    return flatten(read_parts(workdir / "checkpoints", ("params", "frozen", "opt_state", "average")).tree)


def flat(params: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flatten(params).items()}


def test_a_checkpoint_holds_the_adapter_alone_and_names_its_base(base: Path, whole: Path) -> None:
    names = [name for name in stored(whole) if name.startswith("params/")]
    assert len(names) == 4 and all(name.endswith(("query/kernel/a", "query/kernel/b")) for name in names)
    held = [name for name in stored(whole) if name.startswith("opt_state/") and stored(whole)[name].ndim > 1]
    assert held and all(name.endswith(("/a", "/b")) for name in held)
    assert not [name for name in stored(whole) if name.startswith("frozen/")]
    adapter = json.loads((whole / "model.json").read_text())["adapter"]
    assert adapter["base"] == str(base) and len(adapter["identity"]) == 64


def test_loading_gives_the_base_under_the_adapter(base: Path, whole: Path) -> None:
    plain, adapted = jvlm.load(base), jvlm.load(whole)
    leaves = {path: leaf for path, leaf in flatten(adapted.params).items() if isinstance(leaf, Leaf)}
    assert sorted(leaves) == [f"{tower}_tower/blocks/layers/attn/query/kernel" for tower in ("image", "text")]
    merged = flat(merge(adapted.params))
    for path, array in flat(plain.params).items():
        changed = np.abs(merged[path] - array).max() > 0
        assert changed == (path in leaves), path
    # The directory that the run exports is the merged model.
    jvlm.save(adapted, whole / "exported")
    for path, array in flat(jvlm.load(whole / "exported").params).items():
        np.testing.assert_array_equal(array, merged[path])


def test_resumed_is_bit_for_bit_the_same(base: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for step in ("00000003", "00000004"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / step, ignore_errors=True)
    train(toy_config(*RUN, LORA, f"init={base}"), str(tmp_path / "run"), quiet=True)
    one, other = stored(whole), stored(tmp_path / "run")
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_another_base_is_refused(base: Path, whole: Path, tmp_path: Path) -> None:
    other = jvlm.load(base)
    moved = jax.tree.map(lambda x: x * 1.001, other.params)
    jvlm.save(type(other)(**{**vars(other), "params": moved}), tmp_path / "base")
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(UserError, match=r"is not the base that the adapter in .* was trained on"):
        train(toy_config(*RUN, "steps=6", LORA, f"init={tmp_path / 'base'}"), str(tmp_path / "run"), quiet=True)
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    for place, named in ((tmp_path / "base", "is not the base"), (tmp_path / "gone", "which is not there")):
        described["adapter"]["base"] = str(place)
        (tmp_path / "run" / "model.json").write_text(json.dumps(described))
        with pytest.raises(UserError, match=named):
            jvlm.load(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"holds a run with adapter\.dropout = 0\.2, this configuration has 0\.3"):
        train(toy_config(*RUN, LORA.replace("2", "3"), f"init={base}"), str(tmp_path / "run"), quiet=True)


def test_a_run_without_a_directory_keeps_its_base(tmp_path: Path) -> None:
    train(toy_config("steps=2", LORA, "average=0.9"), str(tmp_path), quiet=True)
    adapted = jvlm.load(tmp_path)
    leaf = flatten(adapted.params)["image_tower/blocks/layers/attn/query/kernel"]
    assert isinstance(leaf, Lora)
    tree = stored(tmp_path)
    name = "image_tower/blocks/layers/attn/query/kernel"
    np.testing.assert_array_equal(tree[f"frozen/{name}/base"], leaf.base)
    np.testing.assert_array_equal(tree[f"average/{name}/b"], leaf.b)
    assert bool((leaf.b != 0).any())


def test_an_adapter_of_biases_and_micro_batches(base: Path, tmp_path: Path) -> None:
    config = toy_config("steps=2", "adapter={'kind': 'bitfit'}", f"init={base}")
    with config.unlocked():
        config.micro_batches = 2
    train(config, str(tmp_path), quiet=True)
    plain, adapted = flat(jvlm.load(base).params), flat(jvlm.load(tmp_path).params)
    changed = {path for path in plain if (plain[path] != adapted[path]).any()}
    assert changed and all(path.endswith("bias") for path in changed)


def test_lora_over_a_quantized_base(base: Path, tmp_path: Path) -> None:
    quantize = "quantize={'scheme': 'nf4', 'group': 16, 'double': True, 'targets': ['*attn/*/kernel', '*mlp/*/kernel']}"
    train(toy_config(*RUN, LORA, quantize, f"init={base}"), str(tmp_path / "run"), quiet=True)
    assert {name.split("/")[0] for name in stored(tmp_path / "run")} == {"params", "opt_state"}
    found = flatten(jvlm.load(tmp_path / "run").params)
    query, up = (found[f"text_tower/blocks/layers/{path}/kernel"] for path in ("attn/query", "mlp/up"))
    assert isinstance(query.base, QTensor) and isinstance(up, QTensor)
    assert bool((query.b != 0).any())
    # Without a directory to quantize again, the checkpoint keeps the codes.
    train(toy_config("steps=2", LORA, quantize), str(tmp_path / "fresh"), quiet=True)
    query = flatten(jvlm.load(tmp_path / "fresh").params)["text_tower/blocks/layers/attn/query/kernel"]
    tree = stored(tmp_path / "fresh")
    assert (tree["frozen/text_tower/blocks/layers/attn/query/kernel/base/codes"] == query.base.codes).all()
    with pytest.raises(ConfigError, match=r"config.quantize needs a config.adapter"):
        train(toy_config(quantize), str(tmp_path / "none"), quiet=True)


def test_an_adapter_over_a_quantized_and_over_an_adapted_model(base: Path, whole: Path, tmp_path: Path) -> None:
    second = LORA.replace("'kind'", "'name': 'second', 'kind'")
    train(toy_config(*RUN, second, f"init={whole}"), str(tmp_path / "run"), quiet=True)
    found = jvlm.load(tmp_path / "run")
    assert adapter_names(found.params) == ["default", "second"]
    name = "text_tower/blocks/layers/attn/query/kernel"
    first = flatten(jvlm.load(whole).params)[name]
    np.testing.assert_array_equal(flatten(found.params)[name].base.b, first.b)
    assert [n for n in stored(tmp_path / "run") if n.startswith("params/")] == [
        n for n in stored(whole) if n.startswith("params/")
    ]
