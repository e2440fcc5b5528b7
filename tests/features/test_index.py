"""Files of features: what is written is read again, and nothing in a file is trusted."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.contract import FeatureOutput, ModelContract, Preprocessing
from alexnet_deploy.errors import ArtifactError, DeployError, InputError, UsageError
from alexnet_deploy.features import blocks
from alexnet_deploy.features.index import FORMATS, open_index, open_writer
from alexnet_deploy.features.space import KEY, FeatureSpace, difference_between

WIDTH = 6
PRE = Preprocessing(8, 8, "stretch", None)
CONTRACT = ModelContract("any", (), (), PRE, output_name="features", features=FeatureOutput("a.5", (2, 3), "0" * 64))
SPACE = FeatureSpace("any-int8", "int8", "ab" * 32, CONTRACT, "a runtime", {"numpy": "2"})
NAMES = ("a.jpg", "b/ü.png", "odd\udce9.jpg", "'=cmd|x.jpg", "a.jpg")
VECTORS = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)


def written(
    path: Path, names: Sequence[str] = NAMES, vectors: Any = VECTORS, *, at_once: int = 2, space: FeatureSpace = SPACE
) -> Path:
    with open_writer(path, space) as write:
        for start in range(0, len(names), at_once):
            write(names[start : start + at_once], vectors[start : start + at_once])
    return path


def read(path: Path) -> tuple[FeatureSpace, list[str], np.ndarray]:
    with open_index(path) as index:
        vectors = np.concatenate([block.copy() for block in index.blocks()])
        return index.space, index.names(range(index.rows)), vectors


@pytest.mark.parametrize("suffix", FORMATS)
class TestBoth:
    @pytest.mark.parametrize("block_bytes", [1, 4 * WIDTH * 2, 1 << 20])
    def test_what_is_written_is_read(
        self, block_bytes: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        space, names, vectors = read(written(tmp_path / f"v{suffix}"))
        assert space == SPACE
        assert names == ["a.jpg", "b/ü.png", "odd\\udce9.jpg", "'=cmd|x.jpg", "a.jpg"]
        np.testing.assert_array_equal(vectors, VECTORS)
        assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]

    def test_names_of_any_rows(self, suffix: str, tmp_path: Path) -> None:
        with open_index(written(tmp_path / f"v{suffix}")) as index:
            assert index.names([3, 0, 3]) == ["'=cmd|x.jpg", "a.jpg", "'=cmd|x.jpg"]
            assert index.names([]) == []
            assert [name for part in index.all_names() for name in part] == index.names(range(5))

    def test_an_error_meanwhile_leaves_the_old_file(self, suffix: str, tmp_path: Path) -> None:
        path = written(tmp_path / f"v{suffix}")
        with pytest.raises(RuntimeError), open_writer(path, SPACE) as write:
            write(["x"], VECTORS[:1])
            raise RuntimeError
        assert read(path)[1][0] == "a.jpg"
        assert [each.name for each in tmp_path.iterdir()] == [path.name]

    def test_no_vector(self, suffix: str, tmp_path: Path) -> None:
        path = written(tmp_path / f"v{suffix}", (), VECTORS[:0])
        with pytest.raises(ArtifactError, match="holds no vector"), open_index(path):
            pass

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_number_that_is_not_finite(self, value: float, suffix: str, tmp_path: Path) -> None:
        vectors = VECTORS.copy()
        vectors[3, 2] = value
        with pytest.raises(ArtifactError, match="not finite"):
            read(written(tmp_path / f"v{suffix}", vectors=vectors))

    def test_missing_and_no_file(self, suffix: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such file"):
            read(tmp_path / f"v{suffix}")
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / f"folder{suffix}")

    @pytest.mark.parametrize("content", [b"", b"PK", b"PAR1", b"\x93NUMPY\x01\x00", b"\x80\x04cos\nsystem\n."])
    def test_another_file_of_that_name(self, content: bytes, suffix: str, tmp_path: Path) -> None:
        (tmp_path / f"v{suffix}").write_bytes(content)
        with pytest.raises(ArtifactError, match="is damaged, or no file of features"):
            read(tmp_path / f"v{suffix}")

    @settings(max_examples=60)
    @given(data=st.data())
    def test_a_damaged_byte_is_found_or_changes_nothing(
        self, suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A wrong vector or name, or features that belong to another engine, would look right."""
        path = written(tmp_path_factory.mktemp("bytes") / f"v{suffix}")
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        else:
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        path.write_bytes(content)
        try:
            space, names, vectors = read(path)
        except DeployError as exc:
            assert "\n" not in str(exc)
            return
        assert (space, len(names)) == (SPACE, 5)
        np.testing.assert_array_equal(vectors, VECTORS)


class TestNpz:
    def test_numpy_reads_it(self, tmp_path: Path) -> None:
        with np.load(written(tmp_path / "v.npz"), allow_pickle=False) as found:
            np.testing.assert_array_equal(found["vectors"], VECTORS)
            assert found["files"][0] == "a.jpg"
            assert json.loads(str(found["space"]))["engine"] == "any-int8"

    def test_a_pickle_is_never_run(self, tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        text = np.array(SPACE.to_json())
        np.savez(tmp_path / "v.npz", space=text, vectors=VECTORS, files=np.array([Hostile()] * 5, object))
        with pytest.raises(ArtifactError, match="files is an array of object"):
            read(tmp_path / "v.npz")
        np.savez(tmp_path / "v.npz", space=np.array(Hostile()), vectors=VECTORS, files=np.array(["a"] * 5))
        with pytest.raises(ArtifactError, match="space is an array of object"):
            read(tmp_path / "v.npz")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("changed", "cause"),
        [
            ({"vectors": VECTORS.astype(np.float64)}, "float64"),
            ({"vectors": VECTORS[:4]}, r"\[4, 6\]"),
            ({"vectors": np.asfortranarray(VECTORS)}, "vectors is an array"),
            ({"vectors": VECTORS[:, :5]}, r"\[5, 5\]"),
            ({"vectors": VECTORS.astype(">f4")}, ">f4"),
            ({"files": np.array(["a"])}, r"\[5, 6\]"),
            ({"more": VECTORS}, "entries"),
            ({"space": np.array("{}")}, "schema"),
            ({"space": np.array("[" * 9999)}, "not a valid"),
            ({"files": np.zeros(5, "<U70000")}, "too long"),
        ],
    )
    def test_other_arrays(self, changed: dict[str, Any], cause: str, tmp_path: Path) -> None:
        arrays = {"space": np.array(SPACE.to_json()), "vectors": VECTORS, "files": np.array(["a"] * 5)}
        np.savez(tmp_path / "v.npz", **(arrays | changed))
        with pytest.raises(ArtifactError, match=cause):
            read(tmp_path / "v.npz")

    def test_a_header_that_promises_more_than_there_is(self, tmp_path: Path) -> None:
        """NumPy would ask for the memory first."""
        arrays = {"space": np.array(SPACE.to_json()), "files": np.array(["a"] * 5)}
        np.savez(tmp_path / "v.npz", **arrays)
        head = io.BytesIO()
        shape = (1 << 40, WIDTH)
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "v.npz", "a") as archive:
            archive.writestr("vectors.npy", head.getvalue())
        with pytest.raises(ArtifactError, match=r"bytes for float32 \[1099511627776, 6\]"):
            read(tmp_path / "v.npz")

    def test_a_compressed_one(self, tmp_path: Path) -> None:
        """A bomb is small on disk."""
        np.savez_compressed(
            tmp_path / "v.npz", space=np.array(SPACE.to_json()), vectors=VECTORS, files=np.array(["a"] * 5)
        )
        with pytest.raises(ArtifactError, match="compressed"):
            read(tmp_path / "v.npz")

    @pytest.mark.parametrize("number", [0x110000, 0xFFFFFFFF, 0xD800, 0xDFFF])
    @pytest.mark.parametrize("entry", ["files", "space"])
    def test_numbers_that_are_no_characters(self, entry: str, number: int, tmp_path: Path) -> None:
        """NumPy takes them, and raises SystemError when a text is made of them."""
        arrays = {"space": np.array(SPACE.to_json()), "files": np.array(["abc"] * 5), "vectors": VECTORS}
        kind = arrays[entry].dtype
        numbers = np.ascontiguousarray(arrays[entry].reshape(-1)).view("<u4").copy()
        numbers[1] = number
        arrays[entry] = np.frombuffer(numbers.tobytes(), kind).reshape(arrays[entry].shape)
        np.savez(tmp_path / "v.npz", **arrays)
        with pytest.raises(ArtifactError, match="no character"):
            read(tmp_path / "v.npz")


class TestParquet:
    def test_other_tools_read_it(self, tmp_path: Path) -> None:
        table = pq.read_table(written(tmp_path / "v.parquet"))
        assert table.column_names == ["file", "vector"]
        assert table.column("vector").to_pylist() == VECTORS.tolist()

    @pytest.mark.parametrize(
        ("table", "cause"),
        [
            (pa.table({"files": ["a"], "vector": [[1.0] * WIDTH]}), "other columns"),
            (pa.table({"files": ["a"]}), "other columns"),
            (pa.table({"files": ["a"], "vector": pa.array([[1.0] * 5], pa.list_(pa.float32(), 5))}), "other columns"),
        ],
    )
    def test_other_columns(self, table: pa.Table, cause: str, tmp_path: Path) -> None:
        pq.write_table(table.replace_schema_metadata({KEY: SPACE.to_json()}), tmp_path / "v.parquet")
        with pytest.raises(ArtifactError, match=cause):
            read(tmp_path / "v.parquet")

    def test_a_file_of_somebody_else(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"files": ["a"]}), tmp_path / "v.parquet")
        with pytest.raises(ArtifactError, match="no record of an engine"):
            read(tmp_path / "v.parquet")

    def test_an_edited_record(self, tmp_path: Path) -> None:
        table = pq.read_table(written(tmp_path / "v.parquet"))
        edited = SPACE.to_json().replace('"any-int8"', '"other"')
        pq.write_table(table.replace_schema_metadata({KEY: edited}), tmp_path / "v.parquet")
        with pytest.raises(ArtifactError, match="was edited"):
            read(tmp_path / "v.parquet")


def test_a_file_whose_name_is_no_text_is_found_again(tmp_path: Path) -> None:
    for name in ("odd\udce9.jpg", "plain.jpg", "literal\\udce9.jpg"):
        file = tmp_path / name
        file.write_bytes(b"")
        assert blocks.path_of(blocks.valid_text(str(file))) == file


def test_another_suffix(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`output` .*v\.csv: does not end in one of \.parquet, \.npz"):
        written(tmp_path / "v.csv")
    with pytest.raises(UsageError, match="`index`"):
        read(tmp_path / "v.csv")


def test_only_features_of_one_space_are_compared() -> None:
    def other(**changed: Any) -> FeatureSpace:
        features = dataclasses.replace(SPACE.features, **changed)
        return dataclasses.replace(SPACE, contract=dataclasses.replace(CONTRACT, features=features))

    assert difference_between(SPACE, dataclasses.replace(SPACE, engine="copy", runtime="another", tools={})) is None
    assert difference_between(SPACE, other(layer="called otherwise")) is None
    assert "another engine" in str(difference_between(SPACE, other(sha256="1" * 64)))
    assert "layer b.1" in str(difference_between(SPACE, other(layer="b.1", shape=(9,), sha256="1" * 64)))
    pixels = dataclasses.replace(CONTRACT, preprocessing=dataclasses.replace(PRE, interpolation="bicubic"))
    assert "prepared otherwise" in str(difference_between(SPACE, dataclasses.replace(SPACE, contract=pixels)))
