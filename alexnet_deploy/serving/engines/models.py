"""The models of a server by name: loaded once, and replaced without a dropped request when their files change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial

from alexnet_deploy.bundle.replaced import Look, look
from alexnet_deploy.errors import DeployError
from alexnet_deploy.machine.cpu import cores
from alexnet_deploy.serving.engines.decoding import Decoder
from alexnet_deploy.serving.engines.engine import ServedEngine
from alexnet_deploy.serving.engines.failures import Failures
from alexnet_deploy.serving.engines.loading import discard, open_source
from alexnet_deploy.serving.engines.loads import Loads
from alexnet_deploy.serving.engines.sources import ModelSource
from alexnet_deploy.serving.metrics import Metrics
from alexnet_deploy.serving.refusals import NotFoundError, NotReadyError, shown
from alexnet_deploy.serving.settings import Settings
from alexnet_deploy.serving.statistics import Statistics

_log = logging.getLogger(__name__)


class Models:
    """The loaded version of each model. All methods run on the event loop; loading runs in threads."""

    def __init__(self, sources: Sequence[ModelSource], settings: Settings, metrics: Metrics) -> None:
        """Loads nothing yet."""
        self._sources = {source.name: source for source in sources}
        self._settings = settings
        self._metrics = metrics
        self._of_model = {name: metrics.of_model(name) for name in self._sources}
        self._decoder = Decoder(settings.workers or cores(), settings.max_pixels)
        self._current: dict[str, ServedEngine] = {}
        self._seen: dict[str, Look | None] = {}
        self._failures = {name: Failures(settings.reload_s) for name in self._sources}
        self._retired: set[asyncio.Task[None]] = set()
        self._loads = Loads()
        self._change = asyncio.Event()
        self.ending = False

    @property
    def names(self) -> list[str]:
        """All model names, the default one first."""
        return list(self._sources)

    @property
    def ready(self) -> bool:
        """Whether every model is loaded and warm, and the server is not ending."""
        return not self.ending and len(self._current) == len(self._sources)

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether this version of the model answers; NotFoundError for an unknown name or version."""
        if name not in self._sources:
            raise self._unknown(name)
        engine = self._current.get(name)
        return engine is not None and not self.ending and self.get(name, version) is engine

    async def change(self) -> None:
        """Wait until a model is loaded or replaced, or the server begins to end."""
        await self._change.wait()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def ended(self) -> None:
        """Wait until the server begins to end."""
        while not self.ending:
            await self.change()

    def index(self, *, ready_only: bool = False) -> list[dict[str, str]]:
        """Name, version and state of every model, as Triton's repository index has them."""
        rows = []
        for name in self._sources:
            if (engine := self._current.get(name)) is not None:
                rows.append({"name": name, "version": engine.version, "state": "READY", "reason": ""})
            elif not ready_only:
                rows.append({"name": name, "version": "", "state": "LOADING", "reason": "it is being loaded"})
        return rows

    def statistics(self, name: str) -> Statistics:
        """The counters of a model that is served."""
        return self._of_model[name].statistics

    def get(self, name: str | None = None, version: str = "") -> ServedEngine:
        """The loaded version of a model (None: the first one); ``version`` must be that version, or empty.

        Raises NotFoundError, or NotReadyError before it is loaded.
        """
        if name is None:
            name = next(iter(self._sources))
        if name not in self._sources:
            raise self._unknown(name)
        engine = self._current.get(name)
        if engine is None:
            raise NotReadyError(f"{name}: is being loaded; try again later")
        if version not in ("", engine.version):
            raise NotFoundError(f"{name}: version {shown(version)} is not served; it is {engine.version} now")
        return engine

    def _unknown(self, name: str) -> NotFoundError:
        return NotFoundError(f"{shown(name)}: no such model; this server has {', '.join(self._sources)}")

    def metrics_of(self, engine: ServedEngine) -> None:
        """Show ``engine`` as the version in use."""
        self._metrics.show_engine(engine.name, engine.version, engine.precision, engine.runtime, engine.device)

    async def load(self) -> None:
        """Load and warm all models, one after the other; raises the DeployError of the first that fails."""
        for source in self._sources.values():
            self._seen[source.name] = await asyncio.to_thread(look, source.path)
            await self._switch(source)
        self._metrics.ready.set(1)

    async def watch(self) -> None:
        """Replace models whose files change, until cancelled. One that cannot be used leaves the old one serving."""
        while True:
            await asyncio.sleep(self._settings.reload_s)
            for source in self._sources.values():
                await self._reload_if_changed(source)

    async def _reload_if_changed(self, source: ModelSource) -> None:
        seen = await asyncio.to_thread(look, source.path)
        changed, failures = seen != self._seen[source.name], self._failures[source.name]
        if not changed and not failures.due(time.monotonic()):
            return
        self._seen[source.name] = seen
        old = self._current[source.name]
        try:
            replaced = await self._switch(source)
        except Exception as exc:
            if failures.failed(f"{type(exc).__name__}: {exc}", time.monotonic(), changed=changed):
                self._metrics.reloads.labels(source.name, "failed").inc()
                said = "%s: version %s goes on, as the new one cannot be used: %s"
                is_ours = not isinstance(exc, DeployError)
                _log.warning(said, source.name, old.version, exc, exc_info=is_ours)
        else:
            failures.forget()
            if replaced:
                self._metrics.reloads.labels(source.name, "replaced").inc()
                _log.warning("%s: replaced %s by %s", source.name, old.version, self._current[source.name].version)

    async def _switch(self, source: ModelSource) -> bool:
        """Load, warm, and from one request to the next use the version on disk; False if it is in use already."""
        old = self._current.get(source.name)
        in_use = None if old is None else old.version
        loaded = await self._loads.run(partial(open_source, source, self._settings, in_use), discard)
        if loaded is None:
            return False
        engine = ServedEngine(source.name, loaded, self._settings, self._decoder, self._of_model[source.name])
        self._current[source.name] = engine
        self.metrics_of(engine)
        self._changed()
        if old is not None:
            task = asyncio.create_task(old.close())
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
        return True

    def end(self) -> None:
        """From now on no model is ready; what has arrived is still answered."""
        self.ending = True
        self._changed()

    async def close(self) -> None:
        """Wait for all requests, then release everything."""
        self.end()
        engines, self._current = list(self._current.values()), {}
        await asyncio.gather(*self._retired, *(engine.close() for engine in engines))
        await self._decoder.close()

    async def loads_ended(self, within_s: float) -> bool:
        """Whether no model is being loaded, after ``within_s`` at most."""
        return await self._loads.ended(within_s)
