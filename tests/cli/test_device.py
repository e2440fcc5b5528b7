"""``--device``: which GPUs ``infer``, ``serve``, ``profile`` and ``evaluate`` use, on a machine with two fake ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.inference.engine import OpenEngine, open_engine
from alexnet_deploy.profiling import engine as profiling
from alexnet_deploy.runtime.cuda.memory import is_shared
from alexnet_deploy.serving.engines.instances import open_instances
from alexnet_deploy.serving.engines.loading import open_copy
from alexnet_deploy.serving.engines.sources import ModelSource
from alexnet_deploy.serving.settings import Settings
from tests.helpers.cards import Cards
from tests.helpers.command import Command
from tests.helpers.fake_tensorrt import expected_logits
from tests.helpers.models.foreign_models import random_pixels
from tests.helpers.models.onnx_models import CLASSES, SIDE, TINY_CONTRACT
from tests.helpers.photos import save_photo

NAMES = [f"photos/{i}.jpg" for i in range(6)]
pytestmark = pytest.mark.usefixtures("place")
CUDA = ("--engine", "tiny.onnx", "--runtime", "onnxruntime-cuda", "--no-verify")


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cards:
    made = Cards(monkeypatch, tmp_path, count=2)
    made.take_over()
    return made


class TestInfer:
    @pytest.mark.parametrize("device", ["0,1", "all", "1,0"])
    def test_several_gpus_give_the_rows_of_the_cpu_in_the_order_of_the_files(
        self, device: str, command: Command, cards: Cards
    ) -> None:
        plain = command("infer", *NAMES, "--engine", "tiny.onnx", "--runtime", "onnxruntime", "--format", "jsonl")
        ran = command("infer", *NAMES, *CUDA, "--device", device, "--batch", 1, "--format", "jsonl")
        assert ran.code == 0, ran.err
        assert ran.err.count(", GPU 0") == ran.err.count(", GPU 1") == 1
        found, expected = ([json.loads(line) for line in each.out.splitlines()] for each in (ran, plain))
        assert [row["file"] for row in found] == NAMES
        for row, other in zip(found, expected, strict=True):
            assert row["top"][0]["label"] == other["top"][0]["label"]
            # The same kernels, one image at a time.
            assert row["top"][0]["probability"] == pytest.approx(other["top"][0]["probability"], rel=1e-5)
        assert sum(len(session.sizes) for session in cards.sessions.values()) == 6

    @pytest.mark.parametrize("device", [(), ("--device", "0")])
    def test_the_error_of_a_lost_gpu_is_that_of_the_call_which_failed(
        self, device: tuple[str, ...], command: Command, cards: Cards, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not that of the clean-up, which the lost GPU refuses as well."""
        lost = cards.devices[0]
        wait, waits = lost.synchronize, iter(range(100))

        def synchronize(stream: int) -> None:
            if next(waits) == 4:
                lost.lost = True
                raise UnavailableError("cudaStreamSynchronize: the GPU stopped working", "start again")
            wait(stream)

        monkeypatch.setattr(lost, "synchronize", synchronize)
        plan = ("--engine", "tiny.onnx", "--runtime", "tensorrt", "--no-verify", "--batch", 1)
        ran = command("infer", *NAMES, *plan, *device)
        assert ran.code == 1
        assert "cudaStreamSynchronize: the GPU stopped working; start again" in ran.error
        assert "destroy_stream" not in ran.err

    def test_a_gpu_that_is_lost_in_the_middle_keeps_the_rows_so_far(self, command: Command, cards: Cards) -> None:
        asked: list[Any] = ["infer", *NAMES, *CUDA, "--device", "0,1", "--batch", 1, "--format", "jsonl", "-o", "rows"]
        fatal = load_pixels(Path(NAMES[3]), TINY_CONTRACT.preprocessing)
        is_over: list[str] = []

        def losing(index: int) -> Any:
            run = cards.sessions[index].run

            def call(outputs: Any, feeds: dict[str, Any], options: Any) -> Any:
                (pixels_NHWC,) = feeds.values()
                if not is_over and np.array_equal(pixels_NHWC[0], fatal):
                    cards.devices[index].lost = True
                    raise RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=1")
                return run(outputs, feeds, options)

            return call

        class Sessions(dict[int, Any]):
            def __setitem__(self, index: int, session: Any) -> None:
                super().__setitem__(index, session)
                session.run = losing(index)

        cards.sessions = Sessions()
        ran = command(*asked)
        assert ran.code == 1
        assert "error: GPU " in ran.err
        assert "the GPU stopped working in this process" in ran.error
        assert "the same command with --resume goes on" in ran.err
        assert not Path("rows").exists()
        is_over.append("from now on no GPU is lost")
        for device in cards.devices:
            device.lost = False
        ran = command(*asked, "--resume")
        assert ran.code == 0, ran.err
        assert [json.loads(line)["file"] for line in Path("rows").read_text().splitlines()] == NAMES
        assert sum(len(session.sizes) for session in cards.sessions.values()) == 3, "the first three are kept"

    def test_ray_chooses_on_each_machine(self, command: Command) -> None:
        ran = command("infer", "photos", "--ray", "local", "--output", "out", "--device", "0")
        assert ran.code == 2
        assert "--device is about the GPUs of this machine; leave it out with --ray" in ran.err


COMMANDS = {
    "infer": ["infer", "photos", "--engine", "tiny.onnx"],
    "serve": ["serve", "tiny.onnx", "--port", "0"],
    "profile": ["profile", "tiny.onnx"],
    "evaluate": ["evaluate", "labelled", "--engine", "tiny.onnx"],
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """``profile`` opens its engine in this process, where the GPUs are fake."""

    class Here:
        def __init__(self, subject: str) -> None: ...

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *exc_info: object) -> None: ...

        def call(self, function: Any, *arguments: Any) -> Any:
            return function(*arguments)

    monkeypatch.setattr(profiling, "IsolatedProcess", Here)
    return COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("given", "code", "cause"),
    [
        (["--device", "7"], 1, "--device 7: this process sees 2 GPUs, numbers 0 to 1; choose one that is there, or "),
        (["--device", "0", "--runtime", "openvino"], 2, "--device names a GPU, and --runtime openvino runs on the CPU"),
        (["--device", "first"], 2, "'first' is not a number of a GPU, several with commas, or all, such as 0 or 0,1"),
        (["--device", "-1"], 2, "'-1' is not a number of a GPU"),
    ],
)
def test_a_number_that_cannot_be_used_is_one_line(
    name: str, given: list[str], code: int, cause: str, command: Command, cards: Cards, commands: dict[str, list[str]]
) -> None:
    Path("labelled").symlink_to(Path("photos").absolute())
    ran = command(*commands[name], *given)
    assert (ran.code, ran.out) == (code, "")
    assert cause in ran.error
    assert ran.err.count("--device") <= 2, "the line, and the usage of the command"


@pytest.mark.parametrize("name", ["profile", "evaluate"])
@pytest.mark.parametrize("device", ["0,1", "all"])
def test_a_command_that_measures_takes_one(name: str, device: str, command: Command) -> None:
    ran = command(*COMMANDS[name], "--device", device)
    assert ran.code == 2
    assert f"--device {device}: this command measures one GPU; give one number, such as 0" in ran.error


def test_a_checkpoint_runs_on_the_cpu(command: Command, cards: Cards) -> None:
    ran = command("evaluate", "photos", "--engine", "net.safetensors", "--device", 0)
    assert ran.code == 2
    assert "--device 0: net.safetensors is a checkpoint, which runs on the CPU" in ran.error


def test_profile_measures_on_the_gpu_that_was_chosen(
    command: Command, cards: Cards, commands: dict[str, list[str]]
) -> None:
    short = ("--duration", "1ms", "--warmup", "0s", "--concurrency", 2)
    ran = command("profile", "tiny.onnx", "--runtime", "tensorrt", "--device", 1, *short, "--json")
    assert ran.code in (0, 1), ran.err  # the fake's logits are not the ONNX's, which is said
    (found,) = json.loads(ran.out)
    assert (found["device"], found["runner"][-5:]) == (1, "GPU 1")
    assert found["batches"][0]["gpu_energy_j_per_image"] is None, "nothing reports it here"
    assert cards.devices[1].moved
    assert not cards.devices[0].moved
    assert [device.live for device in cards.devices] == [set(), set()]


def test_serve_has_instances_on_every_gpu(cards: Cards) -> None:
    settings = Settings(device="all", instances=2, tf32=True)
    source = ModelSource("tiny", Path("tiny.onnx"), "onnxruntime-cuda")
    instances = open_instances(lambda concurrency: open_copy(source, settings, concurrency), settings)
    assert [each.description[-5:] for each in instances.sharing] == ["GPU 0", "GPU 1"] * 2
    assert instances.alone is None
    pixels = random_pixels(2, SIDE)
    first, *others = [each(pixels) for each in instances.sharing]
    for other in others:
        assert other == pytest.approx(first, rel=1e-5)  # the same kernels
    instances.close()
    assert [device.calls[-1] for device in cards.devices] == ["close", "close"]
    assert set(cards.tf32) == {True}


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime"])
def test_requests_to_serve_are_joined_in_memory_that_a_gpu_copies_as_it_is(runtime: Any, cards: Cards) -> None:
    device: Any = "all" if runtime == "tensorrt" else None

    def open_one(concurrency: int) -> OpenEngine:
        return open_engine("tiny.onnx", runtime=runtime, concurrency=concurrency, device=device, verify=False)

    instances = open_instances(open_one, Settings(device=device, instances=2, max_batch=4))
    if runtime == "onnxruntime":
        assert instances.batches == (None, None)
    else:
        assert [None if each is None else (each.shape, is_shared(each)) for each in instances.batches] == [
            ((4, SIDE, SIDE, 3), True)
        ] * 4
        pixels = random_pixels(3, SIDE)
        for each, batch in zip(instances.sharing, instances.batches, strict=True):
            assert batch is not None
            batch[:3] = pixels
            np.testing.assert_array_equal(each(batch[:3]), expected_logits(pixels, CLASSES))
    instances.close()
    assert [device.live for device in cards.devices] == [set(), set()]


@pytest.mark.parametrize(
    ("device", "instances", "asked"), [(None, None, [2, 1]), (None, 2, [2]), ((1,), None, [1]), ((0, 1), 3, [3])]
)
def test_a_session_of_serve_is_open_for_the_calls_that_it_gets(
    device: tuple[int, ...] | None,
    instances: int | None,
    asked: list[int],
    cards: Cards,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One for several calls cannot replay CUDA graphs."""
    monkeypatch.setattr("alexnet_deploy.serving.engines.instances.cores", lambda: 4)
    settings = Settings(device=device, instances=instances)
    source = ModelSource("tiny", Path("tiny.onnx"), "onnxruntime-cuda")
    calls: list[int] = []

    def open_one(concurrency: int) -> OpenEngine:
        calls.append(concurrency)
        return open_copy(source, settings, concurrency)

    opened = open_instances(open_one, settings)
    assert len(opened.sharing) == asked[-1] * len(device or (0,))
    opened.close()
    assert calls == asked


@pytest.mark.parametrize(
    ("given", "tf32", "device"),
    [([], False, None), (["--tf32", "--device", "1,0"], True, (1, 0)), (["--device", "all"], False, "all")],
)
def test_serve_passes_on_what_it_is_told(
    given: list[str], tf32: bool, device: object, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Settings] = []
    monkeypatch.setattr("alexnet_deploy.serving.server.serve", lambda sources, settings, *rest: asked.append(settings))
    assert command("serve", "tiny.onnx", *given).code == 0
    assert [(settings.tf32, settings.device) for settings in asked] == [(tf32, device)]


@pytest.mark.parametrize("tf32", [False, True])
def test_evaluate_measures_on_the_gpu_that_was_chosen_with_tf32_or_without(
    tf32: bool, command: Command, cards: Cards
) -> None:
    for class_id in TINY_CONTRACT.class_ids[:2]:
        save_photo(Path("labelled", class_id, "1.jpg"), (40, 90, 120), 1)
    flags = ["--device", 1, *["--tf32"] * tf32]
    ran = command(*COMMANDS["evaluate"], "--runtime", "onnxruntime-cuda", "--no-latency", "--json", *flags)
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)["engines"]
    assert found["runner"][-5:] == "GPU 1"
    assert (set(cards.tf32), list(cards.sessions)) == ({tf32}, [1])
