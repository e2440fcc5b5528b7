"""The device that computes, and what a training process sets up on a CPU: OpenMP's waiting and glibc's memory."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexnet_deploy.errors import UsageError
from alexnet_deploy.model.checkpoint import Checkpoint
from tests.helpers.repository import ROOT
from training.compress.low_rank import Spectrum, decompose_hidden_layers
from training.data.lists.listing import list_class_folders
from training.data.loader import eval_batches
from training.loop.device import default_precision, emulates_bf16, loader_processes, pick_device
from training.results.evaluate import evaluate_checkpoint


def decomposed(checkpoint: Checkpoint, photos: Path) -> dict[str, Spectrum]:
    images = list_class_folders(photos / "train")
    batches = eval_batches(images, checkpoint.contract.preprocessing, batch=9, workers=0)
    return decompose_hidden_layers(checkpoint, batches)


def test_measuring_and_compressing_ask_for_the_device(
    tiny_checkpoint: Checkpoint, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's meta device stands for a GPU: it knows shapes alone, and says so where a value is taken from it."""
    for module in ("results.evaluate", "compress.low_rank"):
        monkeypatch.setattr(f"training.{module}.pick_device", lambda: torch.device("meta"))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        evaluate_checkpoint(tiny_checkpoint, list_class_folders(photo_folder / "val"), workers=0)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        decomposed(tiny_checkpoint, photo_folder)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with two GPUs and 48 cores, as torch would tell of it; the GPUs that were made the current one."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr("training.loop.device.cores", lambda: 48)
    return current


def test_each_process_takes_its_gpu_and_one_too_many_is_refused(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pick_device(1) == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "0")  # of a second machine, where the rank is higher
    assert pick_device(3) == torch.device("cuda", 0)
    assert two_gpus == [1, 0]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"^process 3 of this machine has no GPU, torch sees 2; start fewer"):
        pick_device(2)


@pytest.mark.usefixtures("two_gpus")
def test_cudnn_measures_its_algorithms_unless_each_run_is_to_be_the_same() -> None:
    pick_device()
    assert torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    try:
        pick_device()
    finally:
        torch.use_deterministic_algorithms(False)
    assert not torch.backends.cudnn.benchmark


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_has_as_many_loaders_as_there_are_cores_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loader_processes() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_processes() == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert loader_processes() == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loader_processes() == 2


@pytest.mark.parametrize(
    ("flags", "precision", "emulated"),
    [
        ("avx512_vnni avx512_bf16", "bf16", False),
        ("asimd bf16", "bf16", False),  # ARM
        ("avx avx2 fma avx512f", "fp32", True),
        ("", "fp32", False),  # a system that does not say: without a warning
    ],
)
def test_a_processor_trains_in_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, flags: str, precision: str, emulated: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr("training.loop.device.cpu_flags", lambda: frozenset(flags.split()))
    assert (default_precision(), emulates_bf16()) == (precision, emulated)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("ampere", "precision"), [(True, "bf16"), (False, "fp16")])
def test_an_older_gpu_trains_in_float16(monkeypatch: pytest.MonkeyPatch, ampere: bool, precision: str) -> None:
    """torch calls bfloat16 supported on every card, where its emulation counts."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or ampere)
    assert (default_precision(), emulates_bf16()) == (precision, not ampere)


@pytest.mark.gpu
def test_a_gpu_computes_in_float32_as_a_cpu_does(
    tiny_checkpoint: Checkpoint, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pick_device().type == "cpu":
        pytest.skip("no GPU that torch can use")
    there = decomposed(tiny_checkpoint, photo_folder)
    monkeypatch.setattr("training.compress.low_rank.pick_device", lambda: torch.device("cpu"))
    for name, spectrum in decomposed(tiny_checkpoint, photo_folder).items():
        # float32 sums in another order; TF32's 10 bits of mantissa would be off by some 1e-3.
        torch.testing.assert_close(there[name].mean_O, spectrum.mean_O, rtol=1e-4, atol=1e-5)


def printed(program: str, **environment: str) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=inherited | environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise() -> None:
    program = "import training, os, sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    assert printed(program) == ["PASSIVE", "False"]  # OpenMP reads it when torch is imported
    assert printed(program, OMP_WAIT_POLICY="ACTIVE") == ["ACTIVE", "False"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    program = """
import resource, torch
from training.loop.device import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20, dtype=torch.uint8)  # above 32 MiB, glibc's largest block that is not mapped by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(new_pages() for _ in range(5)))
keep_freed_memory()
torch.ones(256 << 20, dtype=torch.uint8)  # room for the next, whatever small blocks settle in it meanwhile
print(min(new_pages() for _ in range(5)))
"""
    mapped_anew, kept = map(int, printed(program))
    # 16,384 pages of 4 KiB, or 32 of 2 MiB; of a block that was kept none, but the interpreter may need some.
    assert kept < mapped_anew / 4
