"""Requests whose answers are compared with those of the engine itself, for the programs that run for long."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet_deploy.bundle.manifest import MANIFEST
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.images.find import find_images
from alexnet_deploy.inference.engine import open_engine
from alexnet_deploy.probabilities import probabilities
from alexnet_deploy.serving.protocol.messages import METHODS, SERVICE

# Legend: P photo, N batch, K class

PHOTOS = 64
_MAX_BYTES = 1 << 20  # larger photos measure the network
_BATCHES = (2, 3, 5, 8)


@dataclass(frozen=True, slots=True)
class Photos:
    """Encoded photos and their pixels."""

    contents: list[bytes]
    pixels_PHWC: NDArray[np.uint8]

    @classmethod
    def load(cls, folder: Path, engine: Path) -> Photos:
        """The first ``PHOTOS`` of a folder, sized for ``engine``."""
        files = [file for file in find_images([folder]) if file.stat().st_size <= _MAX_BYTES][:PHOTOS]
        with open_engine(engine) as opened:
            pixels = [load_pixels(file, opened.contract.preprocessing) for file in files]
        return cls([file.read_bytes() for file in files], np.stack(pixels))


def version_of(bundle: Path) -> str:
    """What the server calls this version: the beginning of the SHA-256 of its manifest, as docs/serving.md says."""
    return hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Expected:
    """Probabilities ``[P, K]`` of each photo alone, and how far those in a batch may be from them.

    Some runtimes compute INT8 in a batch in other steps than alone, so the tolerance is measured, not chosen: twice the
    largest difference that batches of ``_BATCHES`` show, and 1e-6 at least, for the text of JSON.
    """

    scores_PK: NDArray[np.float64]
    tolerance: float

    @classmethod
    def of(cls, engine: Path, photos: Photos) -> Expected:
        """What ``infer`` answers for these photos."""
        pixels_PHWC = photos.pixels_PHWC
        with open_engine(engine) as opened:

            def in_batches(size: int) -> NDArray[np.float64]:
                starts = range(0, len(pixels_PHWC), size)
                logits_PK = np.concatenate([opened(pixels_PHWC[start : start + size]) for start in starts])
                return probabilities(logits_PK, opened.contract)

            alone_PK = in_batches(1)
            apart = max(float(np.abs(in_batches(size) - alone_PK).max()) for size in _BATCHES)
        return cls(alone_PK, max(2 * apart, 1e-6))

    def closest_pair(self) -> float:
        """How far the two most similar photos' answers are apart: above the tolerance, mixing them up is noticed."""
        differences_PP = np.abs(self.scores_PK[:, None] - self.scores_PK[None]).max(axis=2)
        return float(differences_PP[np.triu_indices(len(differences_PP), 1)].min())

    def fault(self, photo: int, scores_K: NDArray[np.float64]) -> str | None:
        """What is wrong with the answer to this photo, or None."""
        right_K = self.scores_PK[photo]
        if scores_K.shape != right_K.shape:
            return f"photo {photo}: {scores_K.shape} probabilities for {right_K.shape}"
        apart = float(np.abs(scores_K - right_K).max())
        if not apart <= self.tolerance:
            return f"photo {photo}: {apart:.2g} from the engine's probabilities, above {self.tolerance:.2g}"
        return None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request: ``code`` is the HTTP status or gRPC's name, ``scores_K`` only in a good one."""

    code: str
    version: str = ""
    scores_K: NDArray[np.float64] | None = None
    id: str | None = None
    text: str = ""
    retry_after: bool = False

    @property
    def is_good(self) -> bool:
        """Whether it was answered."""
        return self.code in ("200", "OK")

    @property
    def is_refusal(self) -> bool:
        """Whether the server said that it has no room, and when to come again."""
        return self.code in ("503", "RESOURCE_EXHAUSTED")


WAYS = ("classify", "v2 image", "v2 pixels", "grpc image")


class Client:
    """All ways to ask one server; as many HTTP connections as there are requests at a time, and two of gRPC."""

    def __init__(self, port: int, grpc_port: int, model: str, photos: Photos, classes: int) -> None:
        """Connects when it is first used, on a running event loop."""
        import grpc.aio

        self._port, self._model, self._photos, self._classes = port, model, photos, classes
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options) for _ in range(2)]
        self._calls = [channel.unary_unary(f"/inference.{SERVICE}/ModelInfer") for channel in self._channels]
        self._turn = 0

    async def close(self) -> None:
        """Close all connections."""
        for _, writer in self._free:
            writer.close()
        for channel in self._channels:
            await channel.close()

    async def ask(self, way: str, photo: int, id: str) -> Reply:
        """One request with one photo; OSError, EOFError or ``grpc.RpcError`` UNAVAILABLE if there is no answer."""
        if way == "grpc image":
            return await self._grpc(photo, id)
        if way == "classify":
            return await self._http(f"/classify?top_k={self._classes}", "", self._photos.contents[photo])
        if way == "v2 image":
            content = self._photos.contents[photo]
            content = len(content).to_bytes(4, "little") + content
            given: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
        else:
            pixels_HWC = self._photos.pixels_PHWC[photo]
            content = pixels_HWC.tobytes()
            given = {"name": "pixels", "datatype": "UINT8", "shape": [1, *pixels_HWC.shape]}
        given["parameters"] = {"binary_data_size": len(content)}
        head = json.dumps({"id": id, "inputs": [given], "outputs": [{"name": "probabilities"}]}).encode()
        header = f"Inference-Header-Content-Length: {len(head)}\r\n"
        return await self._http(f"/v2/models/{self._model}/infer", header, head + content)

    async def _http(self, path: str, header: str, body: bytes) -> Reply:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{header}\r\n"
        async with self._connection() as (reader, writer):
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines[1:] if line)
            content = await reader.readexactly(int(headers["content-length"]))
            code = lines[0].split()[1]
            if headers.get("connection") == "close":
                writer.close()
        if code != "200":
            return Reply(code, text=content.decode(errors="replace"), retry_after="retry-after" in headers)
        answer = json.loads(content)
        if "outputs" in answer:
            (output,) = answer["outputs"]
            return Reply(code, answer["model_version"], np.array(output["data"]), answer.get("id"))
        return Reply(code, headers["x-engine-version"], self._scores(answer))

    def _scores(self, answer: Any) -> NDArray[np.float64]:
        (row,) = answer["predictions"] if isinstance(answer, dict) else answer
        scores_K = np.full(self._classes, np.nan)
        for one in row["top"]:
            scores_K[one["index"]] = one["probability"]
        return scores_K

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        # The server closes what is idle for a minute; a stream counts as open after that EOF, until it is closed here.
        while self._free and (self._free[-1][0].at_eof() or self._free[-1][1].is_closing()):
            self._free.pop()[1].close()
        pair = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield pair
        except BaseException:
            pair[1].close()  # half of an answer may be on its way
            raise
        if not pair[1].is_closing():
            self._free.append(pair)

    async def _grpc(self, photo: int, id: str) -> Reply:
        import grpc

        given: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
        given["contents"] = {"bytes_contents": [self._photos.contents[photo]]}
        request, response = METHODS["ModelInfer"]
        message = request(model_name=self._model, id=id, inputs=[given], outputs=[{"name": "probabilities"}])
        self._turn += 1
        try:
            content = await self._calls[self._turn % 2](message.SerializeToString())
        except grpc.RpcError as exc:
            if exc.code() is grpc.StatusCode.UNAVAILABLE and "failed" in (exc.details() or "").lower():
                raise ConnectionError(exc.details()) from None
            again = any(key == "grpc-retry-pushback-ms" for key, _ in exc.trailing_metadata() or ())
            return Reply(exc.code().name, text=exc.details() or "", retry_after=again)
        answer = response.FromString(content)
        scores_K = np.frombuffer(answer.raw_output_contents[0], "<f4").astype(np.float64)
        return Reply("OK", answer.model_version, scores_K, answer.id)


def fault_in(reply: Reply, way: str, photo: int, id: str, versions: dict[str, Expected]) -> str | None:
    """What is wrong with a good reply, or None: its version, its id, its values."""
    if reply.version not in versions:
        return f"{way}: version {reply.version} was never served"
    if way != "classify" and reply.id != id:
        return f"{way}: id {reply.id} for {id}"
    assert reply.scores_K is not None
    fault = versions[reply.version].fault(photo, reply.scores_K)
    return f"{way}, version {reply.version}: {fault}" if fault else None


def p50_and_p99(seconds: Sequence[float]) -> tuple[float, float]:
    """In milliseconds; 0 without readings."""
    low, high = np.percentile(seconds, [50, 99]) * 1000 if seconds else (0.0, 0.0)
    return float(low), float(high)
