"""Small files are replaced whole or not at all."""

import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.files import absolute, write_atomic, write_json


def test_content_is_replaced_and_nothing_else_is_left(tmp_path):
    write_atomic(tmp_path / "status.json", "old")
    write_atomic(tmp_path / "status.json", b"new")
    assert (tmp_path / "status.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    write_atomic(tmp_path / "f", "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_json_is_strict(tmp_path):
    value = {"loss": float("nan"), "list": [np.float32(0.5), jnp.int32(3), (float("inf"), 1)], "text": "é"}
    write_json(tmp_path / "f.json", value)

    def constant(name):
        raise AssertionError(name)

    found = json.loads((tmp_path / "f.json").read_text(), parse_constant=constant)
    assert found == {"loss": None, "list": [0.5, 3, [None, 1]], "text": "é"}
    with pytest.raises(TypeError, match="set"):
        write_json(tmp_path / "f.json", {"a": {1, 2}})
    assert json.loads((tmp_path / "f.json").read_text()) == found


def test_addresses_stay_and_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.fspath(absolute("gs://bucket/run")) == "gs://bucket/run"
    assert os.fspath(absolute("run")) == os.fspath(tmp_path / "run")
