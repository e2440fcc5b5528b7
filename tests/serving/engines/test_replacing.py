"""An engine that is replaced while it is loaded: its version and its answers belong together."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL
from alexnet_deploy.bundle.replaced import look
from alexnet_deploy.errors import ArtifactError, InputError
from alexnet_deploy.serving.engines.loading import discard, open_source
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.engines.sources import ModelSource, find_sources
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.settings import Settings
from tests.helpers.batching import soon
from tests.helpers.exchange import Exchange, negated
from tests.helpers.models.onnx_models import SIDE, weights_beside


@pytest.fixture(scope="module")
def exchange() -> Exchange:
    return Exchange()


def answer(bundle: Path) -> tuple[str, np.ndarray]:
    """The version that is served for ``bundle``, and its logits of a red image."""
    red_NHWC = np.zeros((1, 8, 8, 3), np.uint8)
    red_NHWC[..., 0] = 255

    async def load() -> tuple[str, np.ndarray]:
        models = Models(find_sources([str(bundle)], bundle.parent, "onnxruntime"), Settings(), Metrics())
        await models.load()
        engine = models.get()
        with engine.in_use():
            result = await engine.classify_pixels(red_NHWC)
        await models.close()
        return engine.version, result.logits_NK

    return asyncio.run(load())


def test_a_bundle_that_is_back_again_lends_its_name_to_no_other(
    workplace: Path, tmp_path: Path, exchange: Exchange
) -> None:
    first = Path(shutil.copytree(workplace / "engines" / "exact", tmp_path / "live"))
    second = negated(first, tmp_path / "other")
    right = dict((answer(first), answer(second)))
    assert not np.allclose(*right.values(), atol=0.1)

    exchange.start((first, second))
    answer(first)
    times = exchange.opened
    assert times >= 4, "the manifest for the version, the manifest, the model, and the version again"
    answered = 0
    for leaves in range(times):
        for returns in {leaves + 1, leaves + 2, (leaves + times) // 2, times - 1} & set(range(leaves + 1, times)):
            exchange.start((first, second), leaves, returns)
            try:
                version, logits_NK = answer(first)
            except ArtifactError:
                continue  # it saw a model that is not that of the manifest: refused, and loaded again at the next look
            finally:
                exchange.stop()
            # The other bundle's logits have the other sign; one runtime on the same pixels repeats itself.
            np.testing.assert_allclose(logits_NK, right[version], atol=1e-4, err_msg=f"{leaves}, {returns}")
            answered += 1
    assert answered > times, "most exchanges do not matter, or are noticed and the bundle is read again"


def test_a_bundle_that_is_copied_over_slowly_is_used_when_it_is_whole(
    workplace: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = Path(shutil.copytree(workplace / "engines" / "exact", tmp_path / "live"))
    other = negated(live, tmp_path / "other")
    content = (other / MODEL).read_bytes()

    async def copy() -> str:
        models = Models(find_sources([str(live)], tmp_path, "onnxruntime"), Settings(reload_s=0.01), Metrics())
        await models.load()
        first = models.get().version
        watching = asyncio.create_task(models.watch())
        shutil.copyfile(other / MANIFEST, live / MANIFEST)
        await soon(lambda: watching.done() or "goes on, as the new one cannot be used" in caplog.text)
        for size in (10, 20, 30, None):
            (live / MODEL).write_bytes(content[:size])
            await asyncio.to_thread(look, live)
        await soon(lambda: watching.done() or models.get().version != first)
        assert watching.cancel(), "it has not ended"
        await models.close()
        return first

    first = asyncio.run(copy())
    assert f"live: replaced {first} by" in caplog.text


class TestWeightsBesideAnOnnx:
    """A graph with other weights has the same bytes: what tells the two apart lies in another file."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return ModelSource("net", weights_beside(tmp_path / "net.onnx"), "onnxruntime")

    def version_and_logits(self, source: ModelSource, in_use: str | None) -> tuple[str, np.ndarray]:
        loaded = open_source(source, Settings(), in_use)
        assert loaded is not None
        logits_NK = loaded.instances.first(np.full((1, SIDE, SIDE, 3), 90, np.uint8))
        discard(loaded)
        return loaded.version, logits_NK

    def test_other_weights_are_another_version(self, source: ModelSource) -> None:
        seen, (version, logits_NK) = look(source.path), self.version_and_logits(source, None)
        weights_beside(source.path, 2)
        assert look(source.path) != seen
        other_version, other_NK = self.version_and_logits(source, version)
        assert other_version != version
        assert np.abs(other_NK).max() > 2 * np.abs(logits_NK).max()  # five layers of twice the weights: about 32 times

    def test_the_file_of_the_weights_alone_is_rewritten(self, source: ModelSource) -> None:
        seen, data = look(source.path), source.path.with_suffix(".data")
        data.write_bytes(data.read_bytes()[::-1])
        assert look(source.path) != seen

    @pytest.mark.parametrize("name", [b"a\0b", b"caf\xe9", b"../a", b"none"])
    def test_a_model_whose_weights_nobody_can_read_does_not_end_the_watch(
        self, name: bytes, source: ModelSource, caplog: pytest.LogCaptureFixture
    ) -> None:
        pixels_NHWC = np.full((1, SIDE, SIDE, 3), 90, np.uint8)

        async def replace_twice() -> tuple[str, str]:
            models = Models([source], Settings(reload_s=0.01), Metrics())
            await models.load()
            first = models.get().version
            watching = asyncio.create_task(models.watch())
            good = source.path.read_bytes()
            source.path.write_bytes(good.replace(b"net.data", name.ljust(8, b"x")))
            await soon(lambda: watching.done() or "goes on, as the new one cannot be used" in caplog.text)
            with models.get().in_use():
                await models.get().classify_pixels(pixels_NHWC)
            weights_beside(source.path, 2)
            await soon(lambda: watching.done() or models.get().version != first)
            assert watching.cancel(), "it has not ended"
            second = models.get().version
            await models.close()
            return first, second

        first, second = asyncio.run(replace_twice())
        assert first != second
        assert "Traceback" not in caplog.text

    def test_the_file_of_the_weights_is_gone(self, source: ModelSource) -> None:
        seen = look(source.path)
        source.path.with_suffix(".data").unlink()
        assert look(source.path) not in (seen, None), "else nobody would notice that it comes back"
        with pytest.raises(InputError, match=r"net\.data: cannot be read \(No such file or directory\); put its files"):
            open_source(source, Settings(), None)
