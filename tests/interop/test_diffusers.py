"""Models of diffusers' directories: what they say, we compute; what we write, they read."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from jvlm.core.errors import UserError
from jvlm.interop.diffusers import TABLES
from jvlm.interop.diffusers.component import CONFIG, WEIGHTS, Component, load_component, save_component, table_of
from tests.interop import directories
from tests.interop.diffusers_cases import CASES, Case


@dataclass(frozen=True)
class Opened:
    """A folder that diffusers saved, and what we made of it."""

    case: Case
    reference: Any
    directory: Path
    component: Component


@pytest.fixture(scope="module", params=CASES)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    case, directory = CASES[request.param], tmp_path_factory.mktemp("component")
    reference = case.build()
    reference.save_pretrained(directory)
    return Opened(case, reference, directory, load_component(directory))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sd15")
    CASES["UNet of SD 1.5"].build().save_pretrained(directory)
    return directory


def copied(directory: Path, target: Path, **settings: Any) -> Path:
    """The folder with some settings replaced."""
    shutil.copytree(directory, target)
    config = json.loads((target / CONFIG).read_text())
    (target / CONFIG).write_text(json.dumps(config | settings))
    return target


def test_imported_outputs_equal_the_reference(opened: Opened) -> None:
    component = opened.component
    given = opened.case.inputs(component.model)
    expected = opened.case.reference(opened.reference, given)
    directories.assert_near(opened.case.ours(component.model, component.params, given), expected, 1e-5)


def test_exported_folder_is_the_imported_one_to_the_bit(opened: Opened, tmp_path: Path) -> None:
    save_component(opened.component, tmp_path / "out")
    ours, theirs = load_file(tmp_path / "out" / WEIGHTS), load_file(opened.directory / WEIGHTS)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (tensor.shape, tensor.dtype), name
        assert directories.bits(ours[name]) == directories.bits(tensor), name


@pytest.mark.parametrize("name", ["AutoencoderKL of 16 channels", "UNet2DModel"])
def test_export_then_import_is_exact(name: str, tmp_path: Path) -> None:
    CASES[name].build().save_pretrained(tmp_path / "source")
    first = load_component(tmp_path / "source", dtype="bfloat16")
    save_component(first, tmp_path / "out")
    again = load_component(tmp_path / "out")
    assert again.model == first.model
    directories.assert_same_bits({"params": again.params}, {"params": first.params})


def test_written_configuration_opens_in_the_reference(opened: Opened, tmp_path: Path) -> None:
    described = Component(opened.component.model, opened.component.params, opened.component.config)  # ours alone
    save_component(described, tmp_path / "out")
    again, info = opened.case.cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    wanted = {key: value for key, value in opened.reference.config.items() if not key.startswith("_")}
    assert table_of(described).fields(wanted) == table_of(described).fields(again.config)


def test_weights_under_the_old_names_of_attention_are_read(tmp_path: Path) -> None:
    case = CASES["AutoencoderKL"]
    case.build().save_pretrained(tmp_path)
    wanted = load_component(tmp_path).params
    old = dict(to_q="query", to_k="key", to_v="value", **{"to_out.0": "proj_attn"})
    tensors = load_file(tmp_path / WEIGHTS)
    for new, name in old.items():
        tensors = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in tensors.items()}
    assert any("proj_attn" in key for key in tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    directories.assert_same_bits({"params": load_component(tmp_path).params}, {"params": wanted})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(_class_name="UNet3D"), "'UNet3D' is unknown; did you mean 'UNet2DModel'"),
        (dict(time_embedding_type="fourier"), "time_embedding_type = 'fourier'"),
        (dict(mid_block_type=None), "mid_block_type"),
        (dict(up_block_types=["UpBlock2D", "UpBlock2D"]), "pairs the blocks"),
        (dict(cross_attention_dim=16), "attn2.to_k.weight"),
    ],
)
def test_what_jvlm_lacks_is_named_in_one_line(settings: dict[str, Any], words: str, sd15: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_component(copied(sd15, tmp_path / "changed", **settings))
    assert "\n" not in str(caught.value)


def test_every_table_has_a_case() -> None:
    assert {case.cls.__name__ for case in CASES.values()} == TABLES.keys()
