"""`jvlm search` ranks a folder by cosine, embeds only what has changed, and names what it cannot read."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.cli.directories import run_error, run_json, write_clip, write_pictures
from tests.cli.test_embed import reference


def test_ranking_equals_transformers_and_a_picture_finds_itself(clip: str, pictures: list[str], capsys) -> None:
    folder = str(Path(pictures[0]).parent)
    said = run_json(capsys, "search", "--model", clip, "--folder", folder, "--text", "a red square", "--top", "3")
    ref = reference(clip, pictures, ["a red square"])
    similarity = ref["image"] @ ref["text"][0]
    order = np.argsort(-similarity)[:3]
    assert [hit["path"] for hit in said["results"]] == [pictures[at] for at in order]
    assert [hit["similarity"] for hit in said["results"]] == pytest.approx(similarity[order].tolist(), abs=1e-5)
    said = run_json(capsys, "search", "--model", clip, "--folder", folder, "--image", pictures[2])
    assert said["results"][0]["path"] == pictures[2]
    assert said["results"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(said["results"]) == 5


def test_only_what_changed_is_embedded_again(clip: str, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "f"
    paths = write_pictures(folder, 4)
    write_pictures(folder / "below", 1, seed=9)
    argv = ("--model", clip, "--folder", str(folder), "--image", paths[0])

    def search(*more: str) -> tuple[int, int]:
        said = run_json(capsys, "search", *argv, *more)
        assert said["results"][0]["path"] == paths[0]
        return said["embedded"], said["searched"]

    assert search() == (5, 5)
    assert search() == (0, 5)
    Path(paths[1]).write_bytes(Path(paths[2]).read_bytes())
    assert search() == (1, 5)
    Path(paths[3]).unlink()
    assert search() == (0, 4)
    os.utime(paths[2], (1, 1))
    assert search() == (1, 4)
    assert search("--cache", str(tmp_path / "own.npz")) == (4, 4)
    (tmp_path / "own.npz").write_bytes(b"broken")
    assert search("--cache", str(tmp_path / "own.npz")) == (4, 4)
    assert search("--cache", str(tmp_path / "own.npz")) == (0, 4)


def test_another_model_does_not_read_the_cache(clip: str, pictures: list[str], tmp_path: Path, capsys) -> None:
    cache = ("--cache", str(tmp_path / "c.npz"), "--folder", str(Path(pictures[0]).parent), "--text", "a")
    assert run_json(capsys, "search", "--model", clip, *cache)["embedded"] == 5
    other = write_clip(tmp_path / "other")
    # The same weights and configuration elsewhere are the same model; another preprocessing is another.
    assert run_json(capsys, "search", "--model", str(other), *cache)["embedded"] == 0
    file = other / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"resample": 3', '"resample": 2'))
    assert run_json(capsys, "search", "--model", str(other), *cache)["embedded"] == 5


def test_unreadable_files_are_named_and_left_out(clip: str, pictures: list[str], capsys) -> None:
    folder = Path(pictures[0]).parent
    (folder / "bad.png").write_bytes(b"no picture")
    said = run_json(capsys, "search", "--model", clip, "--folder", str(folder), "--text", "a")
    assert said["searched"] == 5
    (skipped,) = said["skipped"]
    assert skipped["path"] == str(folder / "bad.png")
    assert "not a readable picture" in skipped["reason"]


def test_wrong_input_is_one_line_that_names_it(clip: str, pictures: list[str], tmp_path: Path, capsys) -> None:
    folder = str(Path(pictures[0]).parent)
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [
        (2, "either --text T or --image F", ("--folder", folder)),
        (2, "either --text T or --image F", ("--folder", folder, "--text", "a", "--image", pictures[0])),
        (1, "no such folder", ("--folder", str(tmp_path / "none"), "--text", "a")),
        (1, "no pictures", ("--folder", str(empty), "--text", "a")),
        (1, "no such picture", ("--folder", folder, "--image", "none.png")),
    ]
    for status, text, argv in cases:
        found, said = run_error(capsys, "search", "--model", clip, *argv)
        assert found == status, said
        assert text in said
