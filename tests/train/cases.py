"""A toy run for the training tests, and how to start it as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jvlm.train.config import load_config
from tests import compiler

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "model.text.vocab_size=49408",
    "model.text.width=16",
    "model.text.mlp_dim=16",
    "model.image.width=16",
    "model.image.mlp_dim=16",
    "model.image.depth=1",
    "model.image.num_heads=2",
    "model.text.num_heads=2",
    "model.embed_dim=16",
    "evals={}",
    "export=''",
)


def toy_config(*overrides: str) -> ConfigDict:
    """The demo's configuration at its smallest, without evaluations or groups (for which all samples are read)."""
    small = [*SMALL, "pipeline.group=None", *overrides]
    return load_config(str(ROOT / "configs" / "clip_tiny_emoji_pretrain.py") + ":tiny", small)


def start(
    workdir: Path,
    *overrides: str,
    devices: int = 1,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> subprocess.Popen[str]:
    """`jvlm train` on the toy configuration as a process with that many CPU devices; `log` takes what it prints."""
    whole = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compiler.flags(devices),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"),
        **(env or {}),
    }
    command = [sys.executable, "-m", "jvlm.cli.train", "--workdir", str(workdir)]
    command += ["--config", str(ROOT / "configs" / "clip_tiny_emoji_pretrain.py") + ":tiny"]
    command += [f"--config.{text}" for text in (*SMALL, *overrides)]
    with open(log or os.devnull, "w") as file:
        output = subprocess.PIPE if log is None else file
        return subprocess.Popen(command, env=whole, cwd=ROOT, text=True, stdout=output, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str]) -> str:
    """Its output; fails unless the process ended well."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def losses(workdir: Path) -> dict[int, float]:
    """Loss by step from `metrics.jsonl`."""
    records: list[dict[str, Any]] = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}
