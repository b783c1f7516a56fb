"""What is written into each format comes back, broken parts are named, and nothing is extracted."""

import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jvlm.core.errors import UserError
from jvlm.data import DATASETS, array_record
from jvlm.data.byte_ranges import RangeReader
from jvlm.data.sources import BadSample, Sample, Subset
from jvlm.data.tar import TarSource
from jvlm.data.tfds import to_sample
from tests.data import pictures
from tests.data.shards import Memory, samples, write_tar


def make(kind: str, folder, made):
    if kind == "tar":
        write_tar(folder / "a.tar", made[:4])
        write_tar(folder / "b.tar", made[4:])
        return DATASETS["tar"](paths=str(folder))
    if kind == "array_record":
        array_record.write(str(folder / "a.array_record"), made[:4])
        array_record.write(str(folder / "b.array_record"), made[4:])
        return DATASETS["array_record"](paths=str(folder))
    if kind == "parquet":
        rows = [{"image": s.image, "captions": s.captions, "label": s.label, **s.extra} for s in made]
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=3)
        return DATASETS["parquet"](paths=str(folder / "*.parquet"))
    for sample in made:
        (folder / f"{sample.key}.jpg").write_bytes(sample.image)
    rows = [{"image": f"{s.key}.jpg", "captions": s.captions, "label": s.label, **s.extra} for s in made]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return DATASETS["table"](path=str(folder / "t.jsonl"))


KINDS = ["tar", "array_record", "parquet", "table"]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_come_back_in_any_order_and_after_pickling(tmp_path, kind):
    made = samples(10)
    source = make(kind, tmp_path, made)
    assert len(source) == 10
    assert source.sample_bytes > 0
    for copy in (source, pickle.loads(pickle.dumps(source))):
        for i in (7, 0, 9, 3, 4):
            got = copy[i]
            assert (got.image, got.captions, got.label) == (made[i].image, made[i].captions, i % 5)
            assert got.extra["concept"] == i % 7
    assert source.fingerprint() == make(kind, tmp_path, made).fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_sees_a_changed_sample(tmp_path, kind):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    made = samples(6)
    changed = [*made[:5], made[5]._replace(captions=["longer caption than before"])]
    assert make(kind, tmp_path / "x", made).fingerprint() != make(kind, tmp_path / "y", changed).fingerprint()


def test_csv_and_several_columns_of_captions(tmp_path):
    (tmp_path / "a.png").write_bytes(pictures.encode(pictures.photo(8, 8)))
    (tmp_path / "t.csv").write_text('image,title,caption,label\na.png,the title,"a, b",3\n')
    source = DATASETS["table"](path=str(tmp_path / "t.csv"), caption_keys=("caption", "title"))
    assert source[0].captions == ["a, b", "the title"]
    assert source[0].label == 3


@pytest.mark.parametrize("name", ["http://x/a.png", "/etc/passwd", "../a.png"])
def test_tables_name_no_urls_and_nothing_outside_the_folder(tmp_path, name):
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": name}))
    with pytest.raises(UserError, match=r"row 1.*not a file under"):
        DATASETS["table"](path=str(tmp_path / "t.jsonl"))


def test_broken_tables_name_the_line(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a"}\n{"imag')
    with pytest.raises(UserError, match="line 2 is not JSON"):
        DATASETS["table"](path=str(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text('{"imge": "a"}')
    with pytest.raises(UserError, match=r"no 'image'.*did you mean 'imge'"):
        DATASETS["table"](path=str(tmp_path / "t.jsonl"))
    (tmp_path / "t.jsonl").write_text('{"image": "gone.png"}')
    with pytest.raises(BadSample, match=r"gone\.png") as error:
        DATASETS["table"](path=str(tmp_path / "t.jsonl"))[0]
    assert error.value.cause == "missing picture"


def test_img2dataset_layout_and_folders_and_classes(tmp_path):
    image = pictures.encode(pictures.photo(8, 8), "WEBP")
    files = {
        "000/1.webp": image, "000/1.txt": b"from text\n", "000/1.json": b'{"caption": "from json", "width": 8}',
        "000/2.v1.png": image, "000/2.v1.cls": b"4", "000/2.txt": b"x",
        "000/3.png": image, "000/3.txt": b"from text", "000/3.json": b'{"caption": "from text"}',
    }  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        folder = tarfile.TarInfo("000")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    source = TarSource(str(tmp_path / "a.tar"))
    assert len(source) == 3
    assert source[0].captions == ["from text", "from json"]
    assert source[0].extra["width"] == 8
    with pytest.raises(BadSample, match=r"000/2.*no picture.*v1\.png"):
        source[1]
    assert source[2].captions == ["from text"]


def test_long_names_are_read(tmp_path):
    made = [samples(1)[0]._replace(key="x" * 180)]
    assert TarSource(str(write_tar(tmp_path / "a.tar", made)))[0].image == made[0].image


def test_the_index_is_kept_reused_and_renewed(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", samples(3))
    assert len(TarSource(str(path))) == 3
    assert (tmp_path / "a.tar.index").exists()
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("scanned again"))
        assert TarSource(str(path))[2].captions == samples(3)[2].captions
    write_tar(path, samples(5))
    assert len(TarSource(str(path))) == 5
    (tmp_path / "a.tar.index").write_text("broken")
    assert len(TarSource(str(path))) == 5


def test_the_index_may_lie_elsewhere_or_nowhere(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(3))
    assert len(TarSource(str(path), index_dir=str(tmp_path / "cache"))) == 3
    assert not (tmp_path / "a.tar.index").exists()
    assert (tmp_path / "cache" / "a.tar.index").exists()
    (tmp_path / "file").write_text("")
    source = TarSource(str(path), index_dir=str(tmp_path / "file"))
    assert pickle.loads(pickle.dumps(source))[1].captions == samples(2)[1].captions


@pytest.mark.parametrize("where", ["data", "header", "boundary", "garbled", "no end"])
def test_a_truncated_tar_keeps_what_is_whole_and_counts_once(tmp_path, where):
    made = samples(4)
    path = write_tar(tmp_path / "a.tar", made)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    last = members[6]  # the picture of the fourth sample
    cut = {
        "data": last.offset_data + 100, "header": last.offset + 100, "boundary": members[7].offset,
        "no end": members[7].offset_data + 512, "garbled": len(data),
    }[where]  # fmt: skip
    data = bytearray(data[:cut])
    if where == "garbled":
        data[last.offset : last.offset + 512] = b"\xff" * 512
    path.write_bytes(data)
    source = TarSource(str(path))
    whole = 4 if where == "no end" else 3
    assert len(source) == whole + 1
    assert [source[i].image for i in range(whole)] == [s.image for s in made[:whole]]
    with pytest.raises(BadSample, match=r"a\.tar") as error:
        source[whole]
    assert error.value.cause == "truncated tar"


def test_what_is_no_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(UserError, match=r"a\.tar.*jvlm data pack"):
        TarSource(str(tmp_path / "a.tar"))
    with pytest.raises(UserError, match="no such file"):
        TarSource(str(tmp_path / "gone*.tar"))


def test_remote_ranges_cross_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("jvlm.data.byte_ranges.CHUNK", 64)
    data = bytes(range(256)) * 2
    (tmp_path / "f").write_bytes(data)
    reader = RangeReader([str(tmp_path / "f")], chunks=2)
    for offset, size in ((0, 10), (60, 10), (63, 1), (64, 64), (10, 300), (500, 12)):
        assert reader._remote(0, offset, size) == reader.read(0, offset, size) == data[offset : offset + size]
    assert len(reader._cache) == 2
    with pytest.raises(EOFError, match="12 of 20"):
        reader.read(0, 500, 20)


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def test_examples_of_tensorflow_are_read_without_it(tmp_path):
    image = pictures.jpeg()
    lists = {
        "image": field(1, field(1, image)), "caption": field(1, field(1, b"one") + field(1, "zwei ü".encode())),
        "label": field(3, field(1, varint(300))), "box": field(2, field(1, struct.pack("<2f", 0.5, -2))),
        "minus": field(3, field(1, varint(2**64 - 1))),
    }  # fmt: skip
    example = field(1, b"".join(field(1, field(1, k.encode()) + field(2, v)) for k, v in lists.items()))
    assert array_record.parse_example(example)["minus"] == [-1]
    got = array_record.decode(example, "r", "image", ("caption",), "label")
    assert (got.image, got.captions, got.label) == (image, ["one", "zwei ü"], 300)
    assert got.extra["box"] == [0.5, -2]
    for bad in (b"", b"garbage", example[: len(example) // 2]):
        with pytest.raises(BadSample):
            array_record.decode(bad, "r", "image", ("caption",), "label")


def test_parquet_reads_hugging_face_structs_and_names_missing_columns(tmp_path):
    rows = [{"image": {"bytes": pictures.jpeg(), "path": None}, "text": "a"}, {"image": None, "text": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = DATASETS["parquet"](paths=str(tmp_path / "a.parquet"))
    assert source[0].captions == ["a"]
    with pytest.raises(BadSample, match="no picture bytes"):
        source[1]
    with pytest.raises(UserError, match=r"'img'.*did you mean 'image'|'img'.*valid names"):
        DATASETS["parquet"](paths=str(tmp_path / "a.parquet"), image_key="img")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match=r"b\.parquet: not a Parquet file"):
        DATASETS["parquet"](paths=str(tmp_path / "b.parquet"))


def test_tfds_examples_become_samples():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    example = {"image": pixels, "captions": {"text": np.array([b"a", b"b"], object)}, "label": np.int64(3)}
    got = to_sample(example, "x", "image", ("captions/text", "text"), "label")
    from jvlm.data.image_ops import read_picture

    np.testing.assert_array_equal(np.asarray(read_picture(got.image)), pixels)
    assert (got.captions, got.label) == (["a", "b"], 3)
    with pytest.raises(BadSample):
        to_sample({}, "x", "image", (), "label")


def prepared_tfds(folder) -> None:
    """A dataset as `download_and_prepare` leaves it, written without TensorFlow."""
    import importlib
    from typing import Any

    names = "tensorflow_datasets.core.features."
    kinds = {
        "captions": {
            "pythonClassName": names + "sequence_feature.Sequence",
            "sequence": {
                "feature": {"pythonClassName": names + "text_feature.Text", "text": {}}, "length": "-1",
            },
        },
        "image": {
            "pythonClassName": names + "image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
        },
        "label": {
            "pythonClassName": names + "tensor_feature.Tensor",
            "tensor": {"dtype": "int64", "encoding": "none", "shape": {}},
        },
    }  # fmt: skip
    info = {
        "fileFormat": "array_record", "name": "my", "version": "1.0.0", "moduleName": "my",
        "splits": [{"name": "train", "shardLengths": ["3"], "numBytes": "600",
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}],
    }  # fmt: skip
    target = folder / "my" / "1.0.0"
    target.mkdir(parents=True)
    (target / "dataset_info.json").write_text(json.dumps(info))
    features = {"pythonClassName": names + "features_dict.FeaturesDict", "featuresDict": {"features": kinds}}
    (target / "features.json").write_text(json.dumps(features))
    module: Any = importlib.import_module("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(target / "my-train.array_record-00000-of-00001"), "group_size:1")
    for i in range(3):
        image = pictures.encode(pictures.photo(8, 9, seed=i))
        lists = {"image": field(1, field(1, image)), "label": field(3, field(1, varint(i))),
                 "captions": field(1, field(1, f"c{i}".encode()) + field(1, b"x"))}  # fmt: skip
        entries = b"".join(field(1, field(1, k.encode()) + field(2, v)) for k, v in lists.items())
        writer.write(field(1, entries))
    writer.close()


def test_a_prepared_tfds_dataset_is_read_without_tensorflow(tmp_path):
    import sys

    from jvlm.data.image_ops import read_picture

    prepared_tfds(tmp_path)
    source = DATASETS["tfds"](name="my", split="train", data_dir=str(tmp_path))
    assert len(source) == 3
    for copy in (source, pickle.loads(pickle.dumps(source))):
        assert (copy[2].captions, copy[2].label) == (["c2", "x"], 2)
        np.testing.assert_array_equal(np.asarray(read_picture(copy[1].image)), np.asarray(pictures.photo(8, 9, seed=1)))
    assert source.sample_bytes == 200
    assert "tensorflow" not in sys.modules
    with pytest.raises(UserError, match=r"no split 'trian'.*did you mean 'train'"):
        DATASETS["tfds"](name="my", split="trian", data_dir=str(tmp_path))


def test_an_unprepared_tfds_dataset_is_said(tmp_path):
    with pytest.raises(UserError, match="no_such_dataset is not prepared"):
        DATASETS["tfds"](name="no_such_dataset", split="train", data_dir=str(tmp_path))


def test_a_subset_selects_and_changes_the_fingerprint():
    source = Memory(samples(6))
    subset = Subset(source, [4, 1])
    assert [s.key for s in subset] == ["00004", "00001"]
    assert subset.fingerprint() != Subset(source, [1, 4]).fingerprint()
    assert isinstance(subset[0], Sample)
