"""Transformers directories: what they say, we compute; what we write, they read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jvlm import models
from jvlm.core.errors import UserError
from jvlm.interop.hf import TABLES
from jvlm.interop.table import Table, variables_flat
from tests.interop import directories
from tests.interop.decoder_cases import DECODERS
from tests.interop.hf_cases import CASES as OTHERS
from tests.interop.hf_cases import Case
from tests.interop.multimodal_cases import MULTIMODAL

CASES = OTHERS | DECODERS | MULTIMODAL


@dataclass(frozen=True)
class Opened:
    """A directory that the reference saved, and what we made of it."""

    case: Case
    reference: Any
    directory: Path
    table: Table
    model: Any
    variables: dict[str, Any]


def opened(case: Case, directory: Path) -> Opened:
    reference = case.build()
    reference.save_pretrained(directory)
    table = TABLES[case.table]
    return Opened(case, reference, directory, table, *directories.load(directory, table))


@pytest.fixture(scope="module", params=CASES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return opened(CASES[request.param], tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module", params=TABLES)
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """The first case of each format, for what does not depend on the configuration."""
    case = next(case for case in CASES.values() if case.table == request.param)
    return opened(case, tmp_path_factory.mktemp("one"))


def test_imported_outputs_equal_the_reference(source: Opened) -> None:
    given = source.case.inputs(source.model)
    expected = source.case.reference(source.reference, given)
    directories.assert_near(source.case.ours(source.model, source.variables, given), expected)


def test_exported_directory_opens_complete_in_the_reference(source: Opened, tmp_path: Path) -> None:
    directories.save(tmp_path, source.table, source.model, source.variables)
    again, info = source.case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    given = source.case.inputs(source.model)
    expected = source.case.reference(source.reference, given)
    directories.assert_near(source.case.reference(again.eval(), given), expected, 1e-6)


def test_exported_tensors_are_those_that_the_reference_saves(source: Opened, tmp_path: Path) -> None:
    directories.save(tmp_path, source.table, source.model, source.variables)
    ours, theirs = directories.tensors(tmp_path), directories.tensors(source.directory)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (tensor.shape, tensor.dtype), name
        assert directories.bits(ours[name]) == directories.bits(tensor), name


def test_configuration_round_trip_gives_the_same_model(source: Opened) -> None:
    written = source.table.config(source.model)
    assert models.create({"family": source.table.family, **source.table.fields(written)}) == source.model


def test_configuration_written_is_what_the_reference_reads(source: Opened, tmp_path: Path) -> None:
    directories.save(tmp_path, source.table, source.model, source.variables)
    again = type(source.case.config).from_pretrained(tmp_path)
    assert source.table.fields(again.to_dict()) == source.table.fields(source.case.config.to_dict())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_export_then_import_is_exact(one: Opened, dtype: str, tmp_path: Path) -> None:
    variables = directories.cast(one.variables, dtype)
    directories.save(tmp_path, one.table, one.model, variables)
    directories.assert_same_bits(directories.load(tmp_path, one.table)[1], variables)


def test_sharded_files_equal_one_file(one: Opened, tmp_path: Path) -> None:
    directories.save(tmp_path, one.table, one.model, one.variables, shard_bytes=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    directories.assert_same_bits(directories.load(tmp_path, one.table)[1], one.variables)
    again, info = one.case.cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    state = one.reference.state_dict()
    assert all((x == state[name]).all() for name, x in again.state_dict().items())


def test_reference_shards_are_read(one: Opened, tmp_path: Path) -> None:
    one.reference.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    directories.assert_same_bits(directories.load(tmp_path, one.table)[1], one.variables)


def rewritten(source: Opened, directory: Path, tensors: dict[str, np.ndarray]) -> Path:
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text((source.directory / "config.json").read_text())
    return directory


def test_a_missing_tensor_is_named(one: Opened, tmp_path: Path) -> None:
    tensors = directories.tensors(one.directory)
    needed = sorted(name for name in tensors if not name.endswith("num_batches_tracked"))
    for name in needed[:: len(needed) // 4]:
        directory = rewritten(one, tmp_path, {k: v for k, v in tensors.items() if k != name})
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            directories.load(directory, one.table)


def test_an_extra_tensor_is_named(one: Opened, tmp_path: Path) -> None:
    tensors = directories.tensors(one.directory)
    directory = rewritten(one, tmp_path, tensors | {"vision_model.gate": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match=r"vision_model\.gate.*no place"):
        directories.load(directory, one.table)


def test_a_wrong_shape_is_named(one: Opened, tmp_path: Path) -> None:
    tensors = directories.tensors(one.directory)
    for name in sorted(name for name in tensors if not name.endswith("num_batches_tracked"))[::3]:
        wrong = np.concatenate([np.atleast_1d(tensors[name])] * 2)
        directory = rewritten(one, tmp_path, tensors | {name: wrong})
        with pytest.raises(UserError, match=name.replace(".", r"\.") + ".*shape"):
            directories.load(directory, one.table)


def test_a_truncated_file_is_named(one: Opened, tmp_path: Path) -> None:
    directory = rewritten(one, tmp_path, directories.tensors(one.directory))
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        directories.load(directory, one.table)


def test_a_missing_shard_is_named(one: Opened, tmp_path: Path) -> None:
    directories.save(tmp_path, one.table, one.model, one.variables, shard_bytes=20_000)
    victim = sorted(tmp_path.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(UserError, match=victim.name):
        directories.load(tmp_path, one.table)


def test_pickled_weights_are_refused(one: Opened, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    (tmp_path / "config.json").write_text((one.directory / "config.json").read_text())
    with pytest.raises(UserError, match="pickled"):
        directories.load(tmp_path, one.table)


def test_every_parameter_and_state_has_a_rule(source: Opened) -> None:
    covered = [path for rule in source.table.rules(source.model) for path in rule.paths]
    assert sorted(covered) == sorted(variables_flat(source.variables))


def test_bert_with_old_names_and_pretraining_heads_is_read(tmp_path: Path) -> None:
    source = opened(CASES["bert, padding"], tmp_path)
    old = {"cls.predictions.bias": np.zeros(60, np.float32)}
    for name, tensor in directories.tensors(tmp_path).items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        old[f"bert.{name}"] = tensor
    directories.assert_same_bits(directories.load(rewritten(source, tmp_path, old), source.table)[1], source.variables)
