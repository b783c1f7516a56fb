"""`jvlm data check` counts exactly what training would, and `pack` writes what comes back."""

import argparse
import json

import pytest

from jvlm.cli import data as cli
from jvlm.cli import latents
from jvlm.core.errors import ConfigError, UserError
from jvlm.data import DATASETS
from tests.data import pictures
from tests.data.shards import samples, write_tar


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(words))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_check_counts_by_cause_and_says_where(tmp_path, capsys):
    made = samples(40)
    made[3] = made[3]._replace(image=b"no")
    made[8] = made[8]._replace(captions=[" "])
    made[9] = made[9]._replace(image=pictures.bomb())
    made[10] = made[10]._replace(captions=["word " * 90])
    write_tar(tmp_path / "a.tar", made)
    assert call("check", str(tmp_path), "--json", "--max-bad", "0.1") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bad"] == {"corrupt picture": 1, "empty caption": 1, "oversized picture": 1}
    assert [m.partition(":")[2].partition(":")[0] for m in result["first_bad"]] == ["00003", "00008", "00009"]
    assert (result["samples"], result["good"], result["labelled"]) == (40, 37, 37)
    assert result["height"] == {"min": 24, "median": 24.0, "max": 24}
    assert result["tokens"]["truncated"] == 1
    assert result["tokens"]["max"] == 92
    assert call("check", str(tmp_path)) == 1
    captured = capsys.readouterr()
    assert "7.5% of the samples are bad, more than 5.0%" in captured.err
    assert "1 corrupt picture" in captured.out


def test_pack_turns_a_folder_into_shards_that_come_back(tmp_path, capsys):
    made = samples(9)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for s in made:
        (folder / f"{s.key}.jpg").write_bytes(s.image)
        (folder / f"{s.key}.json").write_text(json.dumps({"captions": s.captions, "label": s.label, **s.extra}))
    (folder / "broken.png").write_bytes(b"")
    (folder / "broken.json").write_text("{")
    (folder / "torn.jpg").write_bytes(made[0].image[: len(made[0].image) // 2])
    (folder / "torn.txt").write_text("half of it")
    out = tmp_path / "shards"
    assert call("pack", str(folder), str(out), "--shard-mb", "0.003", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["skipped"]) == (9, {"broken text": 1, "corrupt picture": 1})
    assert result["shards"] > 2
    assert len(list(out.glob("*.tar.index"))) == result["shards"]
    source = DATASETS["tar"](paths=str(out))
    for i, s in enumerate(made):
        got = source[i]
        assert (got.image, got.captions, got.label, got.extra["concept"]) == (s.image, s.captions, s.label, i % 7)
    with pytest.raises(UserError, match="exists already"):
        call("pack", str(folder), str(out))
    assert call("check", str(out)) == 0


def test_pack_takes_a_table_and_an_index_names_the_shard_that_ends_early(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(pictures.encode(pictures.photo(8, 8)))
    (tmp_path / "t.csv").write_text("image,caption\na.png,one\n")
    # However small a shard is to be, it holds a sample.
    assert call("pack", str(tmp_path / "t.csv"), str(tmp_path / "out"), "--shard-mb", "1e-7") == 0
    shard = tmp_path / "out" / "00000.tar"
    (tmp_path / "out" / "00000.tar.index").unlink()
    shard.write_bytes(shard.read_bytes()[:900])
    capsys.readouterr()
    assert call("pack", "--index", str(shard), "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["samples"] == 0
    assert "ends early" in result["truncated"][0] or "ends without" in result["truncated"][0]
    assert (tmp_path / "out" / "00000.tar.index").exists()


def test_what_cannot_be_told_is_asked_for(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(UserError, match="give its format"):
        call("check", str(tmp_path / "x.bin"))
    with pytest.raises(ConfigError, match="SOURCE FOLDER"):
        call("pack", str(tmp_path))
    with pytest.raises(UserError, match="no pictures"):
        call("check", str(tmp_path))


def test_buckets_on_the_command_line_are_those_of_a_configuration():
    assert latents.fields("side=512,step=64,least=0.8") == dict(side=512, step=64, least=0.8)
    assert latents.fields("variant=sdxl") == dict(variant="sdxl")
    with pytest.raises(ConfigError, match="'512' has no '='"):
        latents.fields("512")
