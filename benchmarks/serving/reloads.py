"""Can an engine be replaced a thousand times under load, without a failed request or an answer of the wrong version?

    python -m benchmarks.serving.reloads PHOTOS [--store engines] [--reloads 1000]

Two bundles take turns under one name: the engine, and the same engine with its classes in another order. Every tenth
replacement is damaged in one of several ways, and the old version must go on; every fiftieth is a burst, which must end
on the last one. Clients ask all the while, and each answer is compared with what the version that it names says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import uvloop

from alexnet_deploy.bundle.manifest import MANIFEST, MODEL, load_manifest, save_manifest
from alexnet_deploy.files.atomic import atomic_directory
from benchmarks.rounds import CACHE, RESULTS, Report, Row
from benchmarks.serving.checked import WAYS, Client, Expected, Photos, fault_in, p50_and_p99, version_of
from benchmarks.serving.watched import PATIENCE_S, Sampler, Watched, conclude, watched

QUESTION = "Serving: an engine replaced again and again under load"
CLIENTS = 4
BROKEN_EVERY, BURST_EVERY, BURST = 10, 50, 10


@dataclass
class Outcome:
    """What the replacements did."""

    replaced: int = 0
    kept: int = 0
    seconds: list[float] = field(default_factory=list)
    answers: int = 0
    problems: list[str] = field(default_factory=list)


def shuffled(bundle: Path, out: Path) -> Path:
    """``bundle`` with the scores of each class under the name of the next one; for the CPU, as it has no plan."""
    shutil.copytree(bundle, out, ignore=shutil.ignore_patterns("*.plan"))
    model = onnx.load(out / MODEL)
    (output,) = model.graph.output
    classes = output.type.tensor_type.shape.dim[1].dim_value
    scores, name = f"{output.name} in the old order", output.name
    for node in model.graph.node:
        node.output[:] = [scores if made == name else made for made in node.output]
    order = onnx.helper.make_tensor("order", onnx.TensorProto.INT64, [classes], [*range(1, classes), 0])
    model.graph.initializer.append(order)
    model.graph.node.append(onnx.helper.make_node("Gather", [scores, "order"], [name], axis=1))
    onnx.save(model, out / MODEL)
    manifest = dataclasses.replace(load_manifest(bundle)[0], plans=(), achieved={})
    (out / MANIFEST).unlink()
    save_manifest(manifest, out)
    return out


def put(source: Path, target: Path, damage: Callable[[Path], object] = lambda folder: None) -> None:
    """Replace ``target`` by a copy of ``source`` in one step, as ``build-engine`` does."""
    with atomic_directory(target) as temporary:
        for file in source.iterdir():
            shutil.copyfile(file, temporary / file.name)
        damage(temporary)


def _flip(folder: Path) -> None:
    content = bytearray((folder / MODEL).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / MODEL).write_bytes(content)


def _relabel(folder: Path) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    raw["contract"]["labels"][0] = "another label"
    (folder / MANIFEST).write_text(json.dumps(raw))


def _garbage(folder: Path) -> None:
    manifest = load_manifest(folder)[0]
    (folder / MANIFEST).unlink()
    (folder / MODEL).write_bytes(b"no graph" * 1000)
    save_manifest(manifest, folder)


DAMAGES: tuple[Callable[[Path], object], ...] = (
    _flip,
    _relabel,
    _garbage,
    lambda folder: (folder / MANIFEST).write_bytes(b"{"),
    lambda folder: (folder / MANIFEST).unlink(),
    lambda folder: (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:1000]),
    lambda folder: (folder / MODEL).unlink(),
)


class Replacer:
    """Replaces the served bundle, and waits until the server says what it thinks of it; runs in a thread."""

    def __init__(self, server: Watched, target: Path, bundles: tuple[Path, Path], outcome: Outcome) -> None:
        self._server, self._target, self._bundles, self._outcome = server, target, bundles, outcome
        self._current = 0

    def run(self, reloads: int) -> None:
        """``reloads`` replacements, good and bad."""
        for number in range(1, reloads + 1):
            if number % BURST_EVERY == 0:
                for turn in range(BURST):
                    put(self._bundles[(self._current + turn) % 2], self._target)
                self._good()
            elif number % BROKEN_EVERY == 0:
                self._broken(DAMAGES[number // BROKEN_EVERY % len(DAMAGES)])
            else:
                self._good()

    def _good(self) -> None:
        self._current ^= 1
        wanted = version_of(self._bundles[self._current])
        put(self._bundles[self._current], self._target)
        started = time.monotonic()
        if self._wait(lambda: self._version() == wanted, f"version {wanted} was not taken"):
            self._outcome.seconds.append(time.monotonic() - started)
            self._outcome.replaced += 1

    def _broken(self, damage: Callable[[Path], object]) -> None:
        before, version = self._failed(), self._version()
        put(self._bundles[self._current ^ 1], self._target, damage)
        if self._wait(lambda: self._failed() > before, "a damaged bundle was not noticed"):
            self._outcome.kept += 1
        if self._version() != version:
            self._outcome.problems.append(f"a damaged bundle took over: {self._version()} for {version}")

    def _wait(self, done: Callable[[], bool], problem: str) -> bool:
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                self._outcome.problems.append(f"{problem} within {PATIENCE_S} s")
                return False
            time.sleep(0.05)
        return True

    def _version(self) -> str:
        answer = json.loads(self._server.ask("GET", f"/v2/models/{self._target.name}")[1])
        return str(answer["versions"][0])

    def _failed(self) -> float:
        counts = self._server.metrics("reloads_total")
        return sum(value for labels, value in counts.items() if 'outcome="failed"' in labels)


async def load(
    client: Client, photos: int, versions: dict[str, Expected], outcome: Outcome, over: asyncio.Event
) -> None:
    """``CLIENTS`` clients that wait for their answers, until ``over``."""

    async def one(number: int) -> None:
        while not over.is_set():
            way, photo, id = WAYS[number % len(WAYS)], number // len(WAYS) % photos, f"request {number}"
            try:
                reply = await client.ask(way, photo, id)
            except (OSError, EOFError) as exc:
                outcome.problems.append(f"{way}: no answer: {exc!r}")
                continue
            fault = fault_in(reply, way, photo, id, versions) if reply.is_good else f"{way}: {reply.code} {reply.text}"
            if fault:
                outcome.problems.append(fault)
            outcome.answers += 1
            number += CLIENTS + 1

    await asyncio.gather(*map(one, range(CLIENTS)))


def run(
    server: Watched, target: Path, bundles: tuple[Path, Path], photos: Photos, reloads: int
) -> tuple[list[Row], Outcome]:
    """The rows of the report, and what went wrong."""
    versions = {version_of(bundle): Expected.of(bundle, photos) for bundle in bundles}
    first, second = (expected.scores_PK for expected in versions.values())
    tolerance = max(expected.tolerance for expected in versions.values())
    if abs(first - second).max(axis=1).min() <= tolerance:
        sys.exit("the two bundles answer a photo alike; take other photos")
    outcome, sampler = Outcome(), Sampler(server)

    async def work() -> None:
        over = asyncio.Event()
        client = Client(server.port, server.grpc_port, target.name, photos, first.shape[1])
        loading = asyncio.create_task(load(client, len(photos.contents), versions, outcome, over))
        try:
            with sampler:
                await asyncio.to_thread(Replacer(server, target, bundles, outcome).run, reloads)
        finally:
            over.set()
            await loading
            await client.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    outcome.problems += [f"log: {line}" for line in server.faults() if "goes on, as the new one" not in line]
    outcome.problems += [] if server.process.poll() is None else ["the server has ended"]
    return list(_rows(outcome, sampler)), outcome


def _rows(outcome: Outcome, sampler: Sampler) -> Iterator[Row]:
    yield Row("good bundles taken", "", [float(outcome.replaced)])
    yield Row("damaged bundles refused", "", [float(outcome.kept)])
    for name, value in zip(("p50", "p99"), p50_and_p99(outcome.seconds), strict=True):
        yield Row(f"from the replacement to the first answer of the new version, {name}", "ms", [value])
    yield Row("answers meanwhile", "", [float(outcome.answers)])
    yield from sampler.rows("≤ 32", "≤ 256", "≤ 64")
    yield Row("failed, mixed or unexplained", "", [float(len(outcome.problems))], goal="≤ 0")


def main() -> None:
    """Parse the flags, run, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--store", type=Path, default=CACHE / "engines", help="with the engine")
    parser.add_argument("--engine", default="alexnet-int8")
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--reload", default="50ms", help="how often the server looks for a new bundle")
    parser.add_argument("--output", type=Path, default=RESULTS / "serving_reloads.json")
    args = parser.parse_args()
    engine = args.store.resolve() / args.engine
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundles = (engine, shuffled(engine, folder / "shuffled"))
        target = folder / "store" / args.engine
        target.parent.mkdir()
        put(engine, target)
        server = stack.enter_context(watched(target, "--reload", args.reload))
        rows, outcome = run(server, target, bundles, Photos.load(args.photos, engine), args.reloads)
    conclude(Report(QUESTION, rows), args.output, outcome.problems)


if __name__ == "__main__":
    main()
