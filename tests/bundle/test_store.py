"""Which engine a command means."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_deploy.bundle.manifest import MODEL, Manifest, save_manifest, write_bundle
from alexnet_deploy.bundle.store import bundle_names, find_bundle, resolve_engine
from alexnet_deploy.contract import BatchProfile, ModelContract
from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.onnx_graph.import_options import ImportOptions


def make(store: Path, name: str, created: str) -> None:
    contract = ModelContract("alexnet", ("a", "b"), ("a", "b"))
    with write_bundle(store / name) as folder:
        (folder / MODEL).write_bytes(name.encode())
        save_manifest(Manifest("fp32", contract, BatchProfile(), {}, created=created), folder)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make(tmp_path, "old", "2026-01-01T00:00:00+00:00")
    make(tmp_path, "new", "2026-03-01T00:00:00+00:00")
    make(tmp_path, "middle", "2026-02-01T00:00:00+00:00")
    return tmp_path


def test_no_name_means_the_newest(store: Path) -> None:
    assert bundle_names(store) == ["new", "middle", "old"]
    with resolve_engine(None, store) as engine:
        assert engine.name == "new"


def test_a_name_in_the_store_or_a_path(store: Path) -> None:
    assert find_bundle("old", store) == store / "old"
    assert find_bundle(str(store / "old"), Path("elsewhere")) == store / "old"


def test_unknown_name_and_empty_store_say_what_to_do(store: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match=r"nope: no such engine in .*; there is new, middle, old"):
        find_bundle("nope", store)
    with pytest.raises(InputError, match="holds no engine; build one"), resolve_engine(None, store / "nothing"):
        pass


def test_a_bundle_needs_no_description(store: Path) -> None:
    with (
        pytest.raises(UsageError, match="a bundle carries its own"),
        resolve_engine("old", store, ImportOptions((0.5,) * 3)),
    ):
        pass
