"""An engine that is replaced while it is opened: its labels, its weights and its name in a journal belong together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from alexnet_deploy.bundle.replaced import look, retried, unreplaced
from alexnet_deploy.bundle.verified import held, open_bundle
from alexnet_deploy.errors import InputError, ReplacedError
from alexnet_deploy.evaluation.engines import open_engines
from alexnet_deploy.files.swap import swap_in
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.onnx_graph.onnx_file import load_onnx
from alexnet_deploy.runtime.select import open_runner
from tests.helpers.exchange import Exchange, negated
from tests.helpers.models.onnx_models import tiny_model, weights_beside

RED_NHWC = np.zeros((1, 8, 8, 3), np.uint8)
RED_NHWC[..., 0] = 255


@pytest.fixture(scope="module")
def exchange() -> Exchange:
    return Exchange()


@pytest.fixture
def bundles(workplace: Path, tmp_path: Path) -> tuple[Path, Path]:
    first = Path(shutil.copytree(workplace / "engines" / "exact", tmp_path / "live"))
    return first, negated(first, tmp_path / "other")


def answer(bundle: Path) -> tuple[str, tuple[str, ...], bool]:
    """The hash that a journal would name, the labels, and whether the first logit of a red image is positive."""
    with open_engine(bundle, runtime="onnxruntime") as opened:
        return opened.model_sha256(), opened.contract.labels, bool(opened(RED_NHWC)[0, 0] > 0)


def test_what_is_opened_is_of_one_bundle(
    bundles: tuple[Path, Path], exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_DEPLOY_CACHE", str(tmp_path / "cache"))  # the comparison opens files as well
    right = {answer(bundle) for bundle in bundles}
    assert len({each[2] for each in right}) == 2
    moments, done = 0, False
    while not done:
        shutil.rmtree(tmp_path / "cache")
        exchange.start(bundles, moments)
        try:
            assert answer(bundles[0]) in right, f"exchanged at moment {moments}"
        finally:
            exchange.stop()
        assert answer(bundles[0]) in right, "nothing wrong is remembered"
        done, moments = exchange.opened <= moments, moments + 1
    assert moments > 10


def test_a_bundle_that_is_back_again_is_no_damaged_one(bundles: tuple[Path, Path], exchange: Exchange) -> None:
    exchange.start(bundles)
    right = [open_bundle(bundles[0]).files]
    times = exchange.opened
    right.append(open_bundle(bundles[1]).files)
    for leaves in range(times + 1):
        for returns in range(leaves + 1, times + 2):
            exchange.start(bundles, leaves, returns)
            try:
                assert open_bundle(bundles[0]).files in right, f"exchanged at {leaves} and {returns}"
            finally:
                exchange.stop()


class TestBlock:
    def test_an_engine_that_was_replaced_is_not_read(self, bundles: tuple[Path, Path]) -> None:
        engine = open_bundle(bundles[0])
        swap_in(bundles[1], bundles[0])
        with pytest.raises(ReplacedError, match=r"live: was replaced after it was opened; run the command again"):
            open_runner(engine, "onnxruntime")

    def test_nor_one_that_is_replaced_and_back_within_the_block(self, bundles: tuple[Path, Path]) -> None:
        engine = open_bundle(bundles[0])
        with pytest.raises(ReplacedError, match=r"live: was replaced while it was read"), held(engine):
            swap_in(bundles[1], bundles[0])
            swap_in(bundles[1], bundles[0])

    def test_an_error_in_the_block_is_that_of_the_exchange(self, bundles: tuple[Path, Path]) -> None:
        with pytest.raises(ReplacedError), unreplaced(bundles[0]):
            swap_in(bundles[1], bundles[0])
            raise InputError("no such layer")
        with pytest.raises(InputError), unreplaced(bundles[0]):
            raise InputError("no such layer")

    def test_the_same_files_behind_other_links_are_the_same_engine(self, bundles: tuple[Path, Path]) -> None:
        engine = open_bundle(bundles[0])
        os.link(bundles[0] / "model.onnx", bundles[0].parent / "backup")
        assert look(bundles[0]) != engine.seen
        open_runner(engine, "onnxruntime").runner.close()

    def test_a_backup_by_hard_links_within_the_block_does_not_matter(self, bundles: tuple[Path, Path]) -> None:
        engine = open_bundle(bundles[0])
        with held(engine):
            os.link(bundles[0] / "model.onnx", bundles[0].parent / "backup")
        with pytest.raises(InputError, match="no such layer"), held(engine):
            os.link(bundles[0] / "model.onnx", bundles[0].parent / "second")
            raise InputError("no such layer")

    def test_files_that_are_not_of_the_bundle_do_not_matter(self, bundles: tuple[Path, Path]) -> None:
        engine = open_bundle(bundles[0])
        with held(engine), unreplaced(bundles[0]):
            (bundles[0] / ".#bundle.json").symlink_to("editor@host.1234")  # the lock of an editor leads nowhere
            (bundles[0] / "serve.log").write_text("ready")
        assert look(bundles[0]) is not None
        with pytest.raises(ReplacedError), held(engine):
            swap_in(bundles[1], bundles[0])

    def test_a_file_that_is_missing_for_a_moment_is_a_look(self, bundles: tuple[Path, Path]) -> None:
        model, whole = bundles[0] / "model.onnx", look(bundles[0])
        content = model.read_bytes()
        model.unlink()
        model.symlink_to("nowhere")
        assert look(bundles[0]) not in (whole, None)
        with pytest.raises(ReplacedError), unreplaced(bundles[0]):
            model.unlink()
            model.write_bytes(content)

    def test_an_engine_that_comes_while_it_is_read_is_not_taken_for_one_that_stays(
        self, bundles: tuple[Path, Path]
    ) -> None:
        away = bundles[0].rename(bundles[0].with_name("away"))
        with pytest.raises(ReplacedError), unreplaced(bundles[0]):
            away.rename(bundles[0])
            away = bundles[0].rename(away)

    def test_a_file_that_is_rewritten_in_place_is_seen(self, bundles: tuple[Path, Path]) -> None:
        seen = look(bundles[0])
        with open(bundles[0] / "model.onnx", "r+b") as file:
            file.write(b"x")
        assert look(bundles[0]) != seen

    @pytest.mark.parametrize(("replaced", "reads"), [(0, 1), (2, 3), (99, 5)])
    def test_it_is_read_again_a_few_times(self, replaced: int, reads: int) -> None:
        tries: list[int] = []

        def read() -> str:
            tries.append(1)
            if len(tries) <= replaced:
                raise ReplacedError("x: was replaced")
            return "read"

        if replaced < reads:
            assert retried(read) == "read"
        else:
            with pytest.raises(ReplacedError):
                retried(read)
        assert len(tries) == reads


def test_an_onnx_that_is_written_while_it_is_opened_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(tmp_path / "net.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    def load(path: Path) -> onnx.ModelProto:
        try:
            return load_onnx(path)
        finally:
            if path.stat().st_size < len(content):
                path.write_bytes(content)

    monkeypatch.setattr("alexnet_deploy.onnx_graph.onnx_file.load_onnx", load)
    open_engine(path, runtime="onnxruntime", verify=False).close()


def test_an_onnx_among_several_engines_may_be_touched(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "net.onnx")
    with open_engines([path], tmp_path, "onnxruntime") as (opened,):
        path.chmod(0o600)
        assert opened.source is not None
        with held(opened.source):
            pass


def test_weights_beside_an_onnx_are_those_that_its_hash_names(tmp_path: Path) -> None:
    path = weights_beside(tmp_path / "net.onnx")
    with open_engine(path, runtime="onnxruntime", verify=False) as opened:
        before = opened.model_sha256()
        weights_beside(path, 2)
        assert opened.model_sha256() == before, "what it runs has not changed"
        with pytest.raises(ReplacedError), opened.held():
            pass
