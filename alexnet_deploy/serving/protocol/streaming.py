"""ModelStreamInfer: requests and answers on one stream, in the same order, as Triton has it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.engines.models import Models
from alexnet_deploy.serving.protocol.admission.reading import parsed
from alexnet_deploy.serving.protocol.calls import Call, Calls, refusal_of
from alexnet_deploy.serving.protocol.infer import infer
from alexnet_deploy.serving.protocol.messages import METHODS, answer
from alexnet_deploy.serving.refusals import BusyError, TooSlowError, UnsupportedError
from alexnet_deploy.serving.settings import Settings

NAME = "ModelStreamInfer"
_AHEAD = 64  # requests of one stream at the same time; a client that sends more waits, and is not refused

Answers = asyncio.Queue["asyncio.Task[Any] | None"]


class Streams:
    """All open streams. Each waits for its next message, which can be of ``max_body``: so many bytes are set aside."""

    def __init__(self, models: Models, settings: Settings, budget: BodyBudget, calls: Calls, at_once: int) -> None:
        self._models, self._budget, self._calls = models, budget, calls
        self._max_body, self._timeout_s = settings.max_body, settings.timeout_s
        self._left = at_once
        self._at_once = at_once

    async def handle(self, _: Any, context: Any) -> None:
        """One stream. A request that is refused is an item with ``error_message``, and the stream goes on."""
        await self._calls.run(NAME, "stream", context, self._open)

    async def _open(self, _: Call, context: Any) -> None:
        self._calls.check_key(context)
        if not self._at_once:
            raise UnsupportedError(
                "no memory is set aside for streams: they need twice that of the largest body; use ModelInfer"
            )
        if not self._left:
            raise BusyError(
                f"{self._at_once} streams are open, as many as this server's memory for bodies permits; try again "
                "later, or use ModelInfer"
            )
        self._left -= 1
        try:
            self._budget.hold(self._max_body)
            try:
                await self._run(context)
            finally:
                self._budget.hold(-self._max_body)
        finally:
            self._left += 1

    async def _run(self, context: Any) -> None:
        answers: Answers = asyncio.Queue()
        room = asyncio.Semaphore(_AHEAD)
        writing = asyncio.create_task(self._write(context, answers, room))
        reading = asyncio.create_task(self._read(context, answers, room))
        ending = asyncio.create_task(self._models.ended())
        try:
            await asyncio.wait((writing, reading, ending), return_when=asyncio.FIRST_COMPLETED)
            reading.cancel()  # all is read, or the server ends: what has arrived is answered
            await asyncio.wait((reading,))
            answers.put_nowait(None)
            await writing
            if not reading.cancelled():
                reading.result()
        finally:
            for task in (writing, reading, ending):
                task.cancel()
            while not answers.empty():
                if (job := answers.get_nowait()) is not None:
                    job.cancel()

    async def _read(self, context: Any, answers: Answers, room: asyncio.Semaphore) -> None:
        while True:
            await room.acquire()
            content = await context.read()
            if content is grpc.aio.EOF:
                return
            answers.put_nowait(asyncio.create_task(self._answer(content, context)))

    async def _write(self, context: Any, answers: Answers, room: asyncio.Semaphore) -> None:
        while (job := await answers.get()) is not None:
            try:
                response = await job
            finally:
                job.cancel()
            try:
                async with asyncio.timeout(self._timeout_s):
                    await context.write(response)
            except TimeoutError:
                raise TooSlowError("the answers are not taken in time; open another stream") from None
            room.release()

    async def _answer(self, content: bytes, context: Any) -> Any:
        """The item of one request, which is counted and logged as a call of its own."""
        response = answer(NAME)
        with self._calls.recorded(NAME, "infer", context) as call:
            request = None
            held = 0
            try:
                self._budget.hold(len(content))
                held = len(content)
                request = parsed(METHODS[NAME][0], content)
                found = await infer(self._models, request, call.facts, context.time_remaining())
                found.parameters["triton_final_response"].bool_param = True  # each request has exactly one answer
                response.infer_response.CopyFrom(found)
                call.code = "OK"
            except asyncio.CancelledError:
                raise
            except Exception as exc:
                refusal = refusal_of(exc)  # without its traceback: else this frame and it were a circle
                call.code = refusal.code
                response.error_message = str(refusal)
                if request is not None:  # clients that send several tell them apart by it
                    response.infer_response.id = request.id
                    response.infer_response.model_name = request.model_name
            finally:
                self._budget.hold(-held)
        return response
