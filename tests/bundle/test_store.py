"""The store lists its bundles and finds what a command names, or says what the named thing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.bundle.listing import list_bundles
from alexnet_deploy.bundle.manifest import MANIFEST, Manifest
from alexnet_deploy.bundle.store import bundle_names, find_bundle, resolve_engine
from alexnet_deploy.errors import InputError, UsageError
from tests.helpers.manifests import BUNDLE, edit, write


def test_an_onnx_file_is_no_bundle(tmp_path: Path) -> None:
    """Commands on bundles alone, such as inspect, must not say that it is no ONNX file."""
    (tmp_path / "x.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"is an ONNX file, and this takes an engine bundle.*build-engine .*x\.onnx"):
        find_bundle(str(tmp_path / "x.onnx"), tmp_path / "engines")


class TestList:
    def test_the_newest_comes_first_and_a_damaged_one_with_its_error(self, tmp_path: Path) -> None:
        for name, day in (("a", 2), ("b", 3), ("c", 1)):
            write(tmp_path / name, replace(BUNDLE, created=f"2026-01-0{day}T00:00:00+00:00"))
        edit(write(tmp_path / "damaged"), lambda raw: raw.pop("contract"))
        write(tmp_path / "unreadable")
        (tmp_path / "unreadable" / MANIFEST).unlink()
        (tmp_path / "unreadable" / MANIFEST).symlink_to("/proc/self/mem")  # opens, and fails to read, even for root
        (tmp_path / "alexnet.onnx").touch()
        write(tmp_path / ".hidden")
        rows = list_bundles(tmp_path)
        assert [path.name for path, found in rows if isinstance(found, Manifest)] == ["b", "a", "c"]
        # Without a date in a manifest, the folder's time counts: here they are the newest.
        assert {path.name for path, _ in rows[:2]} == {"damaged", "unreadable"}
        assert "contract" in next(str(found) for path, found in rows if path.name == "damaged")

    def test_no_store_is_an_empty_list(self, tmp_path: Path) -> None:
        assert list_bundles(tmp_path / "nothing") == []


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name, month in (("old", 1), ("new", 3), ("middle", 2)):
        write(tmp_path / name, replace(BUNDLE, created=f"2026-0{month}-01T00:00:00+00:00"))
    return tmp_path


def test_no_name_means_the_newest(store: Path) -> None:
    assert bundle_names(store) == ["new", "middle", "old"]
    with resolve_engine(None, store) as engine:
        assert engine.name == "new"


def test_a_name_in_the_store_or_a_path(store: Path) -> None:
    assert find_bundle("old", store) == store / "old"
    assert find_bundle(str(store / "old"), Path("elsewhere")) == store / "old"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{store}", r"is not an engine bundle \(a folder with bundle.json\) or an .onnx file"),
        ("{store}/old/bundle.json", "is not an engine bundle"),
        ("old@openvino", "no such engine; name the engine old here, and openvino as `runtime`$"),
        ("{store}/new@tensorrt", "and tensorrt as `runtime`$"),
    ],
)
def test_what_is_there_but_no_engine_is_not_reported_as_missing(store: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_engine(name.format(store=store), store).__enter__()


def test_unknown_name_and_empty_store_say_what_to_do(store: Path) -> None:
    with pytest.raises(InputError, match=r"nope: no such engine in .*; it contains new, middle, old"):
        find_bundle("nope", store)
    with pytest.raises(InputError, match="holds no engine; build one"):
        resolve_engine(None, store / "nothing").__enter__()


def test_a_bundle_needs_no_description(store: Path) -> None:
    with pytest.raises(UsageError, match=r"for an ONNX of another tool, and .* is a bundle"):
        resolve_engine("old", store, ImportOptions((0.5,) * 3)).__enter__()
