"""LoRA of text-to-image models: what diffusers and peft write we compute, what we write they open."""

import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jvlm
from jvlm.core.errors import UserError
from jvlm.interop import adapters, peft
from jvlm.interop.diffusers import lora
from jvlm.interop.diffusers.parts import parts
from jvlm.interop.diffusers.single_file import original_rules
from jvlm.interop.peft_sites import sites
from jvlm.interop.pretrained import Pretrained
from jvlm.transforms.adapters import attach
from jvlm.transforms.methods import make_method
from tests.cli.pipelines import PIPELINES
from tests.interop import lora_files
from tests.reference_diffusers import diffusers
from tests.reference_peft import peft as reference_peft

TEXTS = ["a red apple", "a dog"]
X = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)


@dataclass(frozen=True)
class Opened:
    kind: str
    directory: Path
    base: Pretrained

    def pipeline(self) -> Any:
        return lora_files.fresh(self.directory, self.kind)

    def loaded(self, folder: Path) -> np.ndarray:
        """What diffusers computes with the adapter in a folder."""
        pipeline = self.pipeline()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.load_lora_weights(folder, weight_name=lora.FILE)
        return lora_files.theirs(pipeline, X, TEXTS)

    def ours(self, m: Pretrained) -> np.ndarray:
        return lora_files.ours(m, X, TEXTS)


def saved(kind: str, folder: Path) -> Opened:
    PIPELINES[kind](folder).save_pretrained(folder / "model")
    return Opened(kind, folder / "model", jvlm.load(folder / "model"))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return saved("StableDiffusionPipeline", tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return saved("StableDiffusionXLPipeline", tmp_path_factory.mktemp("large"))


@pytest.fixture(params=["small", "large"])
def opened(request: pytest.FixtureRequest) -> Opened:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("settings", [dict(r=2, lora_alpha=5, rank_pattern={"to_k": 3}, alpha_pattern={"fc1": 1})])
def test_what_diffusers_saves_opens_here_and_ours_opens_there(
    opened: Opened, settings: dict[str, Any], tmp_path: Path
) -> None:
    pipeline = opened.pipeline()
    added = lora_files.add(pipeline, **settings)
    layers = {f"{part}_lora_layers": state for part, (_, state) in added.items()}
    told = {f"{part}_lora_adapter_metadata": config for part, (config, _) in added.items()}
    pipeline.save_lora_weights(tmp_path / "theirs", **layers, **told)
    wanted = lora_files.theirs(pipeline, X, TEXTS)
    m = adapters.load(tmp_path / "theirs", opened.base)
    np.testing.assert_allclose(opened.ours(m), wanted, atol=1e-5, rtol=1e-5)
    assert np.abs(lora_files.theirs(opened.pipeline(), X, TEXTS) - wanted).max() > 1e-2
    lora.save(m, tmp_path / "ours")
    np.testing.assert_allclose(opened.loaded(tmp_path / "ours"), wanted, atol=1e-6, rtol=1e-6)
    again = adapters.load(tmp_path / "ours" / lora.FILE, opened.base)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again.params, m.params))


@pytest.mark.parametrize("layout", ["down and up", "processors"])
def test_older_layouts_are_read_as_diffusers_reads_them(small: Opened, layout: str, tmp_path: Path) -> None:
    added = lora_files.add(small.pipeline(), lora_files.ATTENTION, r=2, lora_alpha=2)
    tensors: dict[str, Any] = {}
    for part, (_, state) in added.items():
        for name, x in diffusers.utils.convert_state_dict_to_diffusers(state).items():
            if layout == "processors":
                name = re.sub(r"\.(to_[qkv]|to_out)(?:\.0)?\.lora\.", r".processor.\1_lora.", name)
                name = re.sub(r"\.([qkv])_proj\.lora_linear_layer\.", r".to_\1_lora.", name)
                name = name.replace(".out_proj.lora_linear_layer.", ".to_out_lora.")
            tensors[f"{part}.{name}"] = x
    assert sum("processor.to_out_lora.up" in name for name in tensors) == (8 if layout == "processors" else 0)
    folder = lora_files.write(tensors, tmp_path / "theirs")
    m = adapters.load(folder, small.base)
    np.testing.assert_allclose(small.ours(m), small.loaded(folder), atol=1e-5, rtol=1e-5)


def kohya(opened: Opened, added: dict[str, Any], alpha: float) -> dict[str, Any]:
    """The arrays of adapters under kohya's names, which for SDXL are those of the original training code."""
    two = "text_encoder_2" in added
    unet = opened.base.model.unet
    flat = jvlm.core.tree.flatten(opened.base.params["unet"])
    plain, original = (list(sites(rules, flat)[0]) for rules in (peft_rules(opened), original_rules(unet)))
    names = dict(zip(plain, original)) if two else dict(zip(plain, plain))
    heads = dict(unet="lora_unet_", text_encoder="lora_te1_" if two else "lora_te_", text_encoder_2="lora_te2_")
    out: dict[str, Any] = {}
    for part, (_, state) in added.items():
        for key, x in state.items():
            module, _, factor = key.rpartition(".lora_")
            module = names[module] if part == "unet" else f"text_model.{module.removeprefix('text_model.')}"
            stem = heads[part] + module.replace(".", "_")
            out[f"{stem}.lora_{'down' if factor.startswith('A') else 'up'}.weight"] = x
            out[f"{stem}.alpha"] = np.float32(alpha)
    return out


def peft_rules(opened: Opened) -> Any:
    part = parts(opened.base)["unet"]
    return peft.table_of(part).rules(part.model)


def test_files_of_kohya_are_read_as_diffusers_reads_them(opened: Opened, tmp_path: Path) -> None:
    added = lora_files.add(opened.pipeline(), [*lora_files.ATTENTION, "ff.net.2", "proj_in"], r=4)
    folder = lora_files.write(kohya(opened, added, 3.0), tmp_path / "kohya")
    m = adapters.load(folder / lora.FILE, opened.base)
    np.testing.assert_allclose(opened.ours(m), opened.loaded(folder), atol=1e-5, rtol=1e-5)


def test_peft_directories_of_the_parts_open_both_ways(large: Opened, tmp_path: Path) -> None:
    pipeline, base = large.pipeline(), large.pipeline()
    for seed, name in enumerate(parts(large.base)):
        if name == "vae":
            continue
        modules = lora_files.UNET if name == "unet" else lora_files.TEXT
        settings = reference_peft.LoraConfig(r=2, target_modules=modules, use_dora=name == "unet")
        lora_files.torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = reference_peft.get_peft_model(getattr(pipeline, name), settings)
            with lora_files.torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.1 * lora_files.torch.randn_like(parameter))
            model.eval().save_pretrained(tmp_path / "theirs" / name)
    wanted = lora_files.theirs(pipeline, X, TEXTS)
    m = adapters.load(tmp_path / "theirs", large.base)
    np.testing.assert_allclose(large.ours(m), wanted, atol=1e-5, rtol=1e-5)
    jvlm.save(m, tmp_path / "ours", format="peft")
    for name in ("unet", "text_encoder", "text_encoder_2"):
        if (part := getattr(base, name, None)) is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", UserWarning)  # peft's way to say that keys are missing
                reference_peft.PeftModel.from_pretrained(part, tmp_path / "ours" / name).eval()
    np.testing.assert_allclose(lora_files.theirs(base, X, TEXTS), wanted, atol=1e-6, rtol=1e-6)
    # One of the directories alone is known by its modules.
    alone = adapters.load(tmp_path / "theirs" / "text_encoder", large.base)
    assert jvlm.core.tree.flatten(alone.params)["text/text_tower/blocks/layers/attn/query/kernel"].ranks == (2, 2)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (("unet.down_blocks.0", "unet.lower_blocks.0"), "cannot take an adapter"),
        (("unet.down_blocks", "net.down_blocks"), "belongs to no part of the model; .*'unet'"),
        ((".lora_B.weight", ".lora_B.bias"), "is no factor of a LoRA"),
        (("unet.down_blocks", "lora_unet_down_blocks_7"), "lora_unet_down_blocks_7 belongs to no part"),
    ],
)
def test_what_has_no_place_is_named(small: Opened, edit: tuple[str, str], named: str, tmp_path: Path) -> None:
    m = attached(small, targets=["unet/down*cross/query/kernel"])
    lora.save(m, tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / lora.FILE)
    folder = lora_files.write({name.replace(*edit): x for name, x in tensors.items()}, tmp_path / "edited")
    with pytest.raises(UserError, match=named):
        adapters.load(folder, small.base)


def attached(opened: Opened, **fields: Any) -> Pretrained:
    method = make_method(dict(kind="lora", rank=2) | fields)
    return replace(opened.base, params=attach(opened.base.params, method, jax.random.key(0)))


def test_more_than_a_plain_lora_is_refused_by_name(small: Opened, tmp_path: Path) -> None:
    pipeline = small.pipeline()
    tensors = kohya(small, lora_files.add(pipeline, r=2), 1.0)
    stem = next(iter(tensors)).partition(".")[0]
    folder = lora_files.write(tensors | {f"{stem}.dora_scale": np.ones((8, 1), np.float32)}, tmp_path / "dora")
    with pytest.raises(UserError, match=f"{stem}.dora_scale is no factor of a plain LoRA"):
        adapters.load(folder, small.base)
    with pytest.raises(UserError, match="has no form for what was trained of vae"):
        lora.save(attached(small, targets=["vae/*attn/query/kernel"]), tmp_path / "out")
    with pytest.raises(UserError, match="no adapter to write"):
        lora.save(small.base, tmp_path / "out")
    part = parts(small.base)["text_encoder"]
    with pytest.raises(UserError, match="is a LoRA of a text-to-image model"):
        adapters.load(folder / lora.FILE, part)
