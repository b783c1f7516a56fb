"""One tiny CLIP directory for all verbs; compiled programs go to the tests' cache, not the user's."""

from pathlib import Path

import pytest

from tests.cli import directories
from tests.conftest import CACHE


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(directories.write_clip(tmp_path_factory.mktemp("clip") / "model"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    return directories.write_pictures(tmp_path / "pictures", 5)


@pytest.fixture(autouse=True)
def _caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
