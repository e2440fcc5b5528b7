"""Large images take turns: neither memory in every thread, nor the time of those who ask for little."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet_deploy.serving.engines.pixel_budget import PixelBudget
from tests.serving.running import PATIENCE_S, answers, serving
from tests.serving.test_classify import form


def test_large_images_do_not_take_memory_in_every_thread(workplace: Path, photo: bytes) -> None:
    side = 3000
    stream = io.BytesIO()
    Image.new("RGBA", (side, side)).save(stream, "WEBP", lossless=True)
    damaged = stream.getvalue()[:-4] + b"\xff" * 4
    with serving(workplace, "exact", "--workers", 4, "--max-pixels", side * side) as server:
        answers(server, photo)
        before = server.peak_bytes()
        body, headers = form([("large.webp", stream.getvalue())] * 4 + [("damaged.webp", damaged)] * 4)
        rows = server.ask("POST", "/classify", body, headers).json()
        assert [row["error"] for row in rows[:4]] == [None] * 4
        # One takes 24.5 bytes per pixel. It was 80 without turns, and 40 while libwebp opened a file before its turn.
        assert server.peak_bytes() - before < 30 * side * side
        answers(server, photo)


def test_a_small_photo_does_not_wait_for_large_ones(workplace: Path, photo: bytes) -> None:
    stream = io.BytesIO()
    Image.new("L", (7000, 7000)).save(stream, "PNG")
    with serving(workplace, "exact", "--workers", 2, "--timeout", "1000s") as server, ThreadPoolExecutor(8) as pool:
        large = [pool.submit(server.ask, "POST", "/classify", stream.getvalue()) for _ in range(8)]
        while not server.metric("queue_images"):
            assert not any(job.done() for job in large)
        answers(server, photo)
        assert not all(job.done() for job in large)
        assert [job.result().json()[0]["error"] for job in large] == [None] * 8


def test_large_images_take_turns_as_they_came() -> None:
    async def body() -> None:
        budget = PixelBudget(pixels=100, images=2)
        await budget.take(60)
        await budget.take(40)
        third, fourth = (asyncio.create_task(budget.take(pixels)) for pixels in (500, 1))
        leaving = asyncio.create_task(budget.take(1))
        await asyncio.sleep(0)
        leaving.cancel()
        budget.give_back(60)
        await asyncio.sleep(0)
        assert not third.done(), "it waits until it is alone"
        assert not fourth.done(), "it does not overtake"
        budget.give_back(40)
        await third
        assert not fourth.done()
        budget.give_back(500)
        await fourth
        budget.give_back(1)
        await budget.take(500)  # nothing is held any more

    asyncio.run(asyncio.wait_for(body(), PATIENCE_S))


@given(st.lists(st.tuples(st.integers(1, 150), st.booleans()), max_size=10), st.integers(1, 3))
def test_nothing_of_the_budget_is_lost_by_those_who_leave(calls: list[tuple[int, bool]], images: int) -> None:
    async def body() -> None:
        budget = PixelBudget(pixels=100, images=images)
        used: list[int] = []

        async def decode(pixels: int) -> None:
            await budget.take(pixels)
            used.append(pixels)
            assert len(used) == 1 or (sum(used) <= 100 and len(used) <= images)
            try:
                await asyncio.sleep(0)
            finally:
                used.remove(pixels)
                budget.give_back(pixels)

        await budget.take(1)
        jobs = [asyncio.create_task(decode(pixels)) for pixels, _ in calls]
        await asyncio.sleep(0)
        budget.give_back(1)  # the first ones have their turn, and some of them leave before they know
        for job, (_, leaves) in zip(jobs, calls, strict=True):
            if leaves:
                job.cancel()
        ended = await asyncio.gather(*jobs, return_exceptions=True)
        assert [each for each, (_, leaves) in zip(ended, calls, strict=True) if each is not None and not leaves] == []
        await budget.take(1000)

    asyncio.run(asyncio.wait_for(body(), 10))
