"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from alexnet_deploy import __version__
from alexnet_deploy.serving.statistics import Statistics

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
_PREFIX = "alexnet_deploy_"


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter(
            "requests", "Requests by protocol, operation, model and code", "protocol operation model code"
        )
        self.images = self._counter("images", "Images by outcome", "model outcome")
        self.reloads = self._counter("reloads", "Replaced engines by outcome", "model outcome")
        self.request_seconds = self._histogram(
            "request_seconds", "Seconds from the first byte to the answer", "protocol operation", _SECONDS
        )
        self.step_seconds = {
            step: self._histogram(f"{step}_seconds", f"Seconds of the step {step}, per request", "model", _SECONDS)
            for step in ("decode", "queue", "compute")
        }
        self.batch_seconds = self._histogram("batch_seconds", "Seconds of one call of the engine", "model", _SECONDS)
        self.batch_images = self._histogram("batch_images", "Images in one call of the engine", "model", _IMAGES)
        self.queue_images = self._gauge("queue_images", "Images that wait, decoded or not", "model")
        self.ready = self._gauge("ready", "1 if every engine is loaded and warm", "")
        self.body_bytes = self._gauge("body_bytes", "Bytes of request bodies in memory", "")
        self.log_lines_lost = self._counter(
            "access_log_lines_lost", "Lines that could not be written, or not in time", ""
        )
        self._info = self._gauge("engine_info", "The versions in use", "model version precision runtime device")
        self._gauge("info", "This program", "version").labels(__version__).set(1)

    def _counter(self, name: str, text: str, labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels.split(), registry=self._registry)

    def _gauge(self, name: str, text: str, labels: str) -> Gauge:
        return Gauge(_PREFIX + name, text, labels.split(), registry=self._registry)

    def _histogram(self, name: str, text: str, labels: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, text, labels.split(), registry=self._registry, buckets=buckets)

    def of_model(self, model: str) -> ModelMetrics:
        """The metrics of one model name."""
        return ModelMetrics(self, model)

    def show_engine(self, model: str, version: str, precision: str, runtime: str, device: str) -> None:
        """Replace what ``engine_info`` says about ``model``."""
        self._info.remove_by_labels({"model": model})
        self._info.labels(model, version, precision, runtime, device).set(1)

    def text(self) -> bytes:
        """All metrics, in Prometheus's text format."""
        return generate_latest(self._registry)


class ModelMetrics:
    """The metrics of one model, with its labels looked up once; an ``Observer`` of its batcher."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.statistics = Statistics()
        self._batch_seconds = metrics.batch_seconds.labels(model)
        self._batch_images = metrics.batch_images.labels(model)
        self._queue_images = metrics.queue_images.labels(model)
        self._steps = {step: histogram.labels(model) for step, histogram in metrics.step_seconds.items()}
        self._good, self._bad = (metrics.images.labels(model, outcome) for outcome in ("answered", "failed"))
        for outcome in ("replaced", "failed"):  # a rate needs the 0 before the first one
            metrics.reloads.labels(model, outcome)

    def batch(self, images: int, compute_s: float) -> None:
        """``images`` were computed in one call."""
        self._batch_images.observe(images)
        self._batch_seconds.observe(compute_s)
        self.statistics.batch(images, compute_s)

    def queue(self, change: int) -> None:
        """So many images more wait, or fewer."""
        self._queue_images.inc(change)

    def steps(self, decode_s: float | None, queue_s: float, compute_s: float) -> None:
        """One request was answered; ``decode_s`` is None if it brought pixels."""
        if decode_s is not None:
            self._steps["decode"].observe(decode_s)
        self._steps["queue"].observe(queue_s)
        self._steps["compute"].observe(compute_s)

    def answered(self, good: int, bad: int) -> None:
        """So many images got an answer, so many an error."""
        self._good.inc(good)
        if bad:
            self._bad.inc(bad)
