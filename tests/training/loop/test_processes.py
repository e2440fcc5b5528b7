"""What needs processes of its own: kills, signals, torchrun, and torch's compiler, which warns when it is imported."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open

from alexnet_deploy.errors import InputError
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.command import Command
from tests.helpers.models.tiny_runs import identical, metrics_of, weights_of
from tests.helpers.repository import ROOT
from tests.training.processes import TrainingProcess
from training.data.lists.listing import list_class_folders
from training.loop.run import Run
from training.run_files import STATE_FILE

pytestmark = pytest.mark.usefixtures("no_curves")  # in this process

KILLED = (
    "error: a process that decodes images was killed, most often for lack of memory; "
    "continue with --resume and fewer --workers\n"
)


def train(data: Path, output: Path, *flags: str) -> list[str]:
    """Epochs of three steps at 64 pixels, with a rank so small that saving takes no time."""
    small = ["--dense-rank", "4", "--batch", "6", "--workers", "1", "--set", "augment=none", "--set", "sides=[[0, 64]]"]
    small += ["--set", "repeats=1", "--skip-report"]
    return ["train", str(data), "--output", str(output), *small, *flags]


def test_kill_9_and_sigterm_and_resume_give_the_weights_of_an_undisturbed_run(
    photo_folder: Path, tmp_path: Path, cli: Command
) -> None:
    disturbed = train(photo_folder, tmp_path / "disturbed", "--epochs", "4")
    process = TrainingProcess(*disturbed)
    process.wait_for_epoch(1)
    process.kill()
    process = TrainingProcess(*disturbed, "--resume")
    process.wait_for_epoch(2)
    os.killpg(process.pid, signal.SIGTERM)  # the processes that decode get it too
    code, stderr = process.finish()
    assert code == 130, stderr
    assert "saved; continue with --resume" in stderr
    assert "Traceback" not in stderr
    assert cli(*disturbed, "--resume").code == 0
    assert cli(*train(photo_folder, tmp_path / "undisturbed", "--epochs", "4")).code == 0
    assert identical(weights_of(tmp_path / "disturbed"), weights_of(tmp_path / "undisturbed"))
    assert [row["epoch"] for row in metrics_of(tmp_path / "disturbed")] == [1, 2, 3, 4]


def test_a_killed_decoding_process_is_one_line(
    photo_folder: Path, tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_a_decoder(*_: object) -> None:
        pid = multiprocessing.active_children()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # as the kernel does where memory runs out
        # A later end might be noticed where Python can only warn of it: in a __del__.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr("training.cli.show.show_epoch", kill_a_decoder)
    result = cli(*train(photo_folder, tmp_path / "run", "--epochs", "1000"))
    assert (result.code, f"{result.error}\n") == (1, KILLED)


def test_a_decoding_process_killed_while_it_hands_over_a_batch_is_the_same_line(
    photo_folder: Path, tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe ends. Typer prints "Aborted!" for an EOFError, as for the end of the standard input."""

    def ends(*_: object, **__: object) -> Iterator[object]:
        raise EOFError
        yield

    monkeypatch.setattr("training.data.loader.DataLoader", ends)
    result = cli(*train(photo_folder, tmp_path / "run"))
    assert (result.code, f"{result.error}\n") == (1, KILLED)


@pytest.fixture
def spoiled(photo_folder: Path, tmp_path: Path) -> Path:
    """Photos of which one cannot be read."""
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    (photos / "train" / "n01_red" / "0.jpg").write_bytes(b"")
    return photos


@pytest.mark.slow
def test_torchrun_trains_as_one_process_does_without_the_files_that_cannot_be_read(
    spoiled: Path, tmp_path: Path, cli: Command
) -> None:
    # Without dropout, whose masks differ between shares of a batch; at a rate that lets no rounding error grow.
    flags = ["--recipe", "torchvision", "--lr", "1e-5", "--dense-rank", "32", "--dropout", "0", "--epochs", "2"]
    two = train(spoiled, tmp_path / "two", *flags, "--allow-unreadable")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run([*torchrun, "-m", "training", *two], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("wrote ") == 1
    (spoiled / "train" / "n01_red" / "0.jpg").unlink()
    listed = [list_class_folders(spoiled / split).digest() for split in ("train", "val")]
    assert load_checkpoint(tmp_path / "two" / "checkpoint.safetensors").recipe["data"] == "".join(listed)
    assert cli(*train(spoiled, tmp_path / "one", *flags)).code == 0
    for alone, together in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        for name in ("train_loss", "val_loss"):
            # bfloat16 rounds each process's share of a gradient to 8 bits before the sum: 0.6 % after six steps here.
            # A gradient summed instead of averaged is off by 20 %, the loss of one share alone by more.
            assert together[name] == pytest.approx(alone[name], rel=0.03), name
        assert together["lr"] == alone["lr"]


@pytest.mark.parametrize(("rank", "code"), [("0", 1), ("1", 7)])
def test_what_is_wrong_is_found_by_the_first_process_before_they_meet(
    spoiled: Path, tmp_path: Path, cli: Command, monkeypatch: pytest.MonkeyPatch, rank: str, code: int
) -> None:
    """The first ends, and with it torchrun ends the others; they print nothing."""
    for name, value in {"RANK": rank, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: sys.exit(7))
    result = cli(*train(spoiled, tmp_path / "run"))
    assert result.code == code
    assert result.err.count(f"error: {spoiled / 'train' / 'n01_red' / '0.jpg'}: ") == (rank == "0")
    assert [path.name for path in (tmp_path / "run").iterdir()] == (["preflight.txt"] if rank == "0" else [])


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(photo_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    # As torchrun starts them, but without its own exit code and report.
    lead, other = (
        TrainingProcess(
            *train(photo_folder, tmp_path / "run", "--epochs", "1000"),
            RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port,
        )
        for rank in "01"
    )  # fmt: skip
    lead.wait_for_epoch(1)
    os.kill(other.pid, signal.SIGTERM)
    (lead_code, by_lead), (other_code, by_other) = lead.finish(), other.finish()
    assert (lead_code, other_code) == (130, 130), by_lead + by_other
    stopped = re.search(r"stopped at step (\d+), saved; continue with --resume", by_lead)
    assert stopped is not None
    with safe_open(tmp_path / "run" / STATE_FILE, framework="pt") as state:
        assert json.loads(state.metadata()["alexnet_deploy.training"])["step"] == int(stopped[1])
    assert "Traceback" not in by_lead + by_other
    assert "stopped" not in by_other


def test_the_others_wait_while_the_first_reads_for_hours(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    timeouts: list[timedelta] = []

    def look(run: Run, **_: object) -> Path:
        group = dist.group.WORLD
        assert group is not None
        timeouts.append(group._get_backend(torch.device("cpu")).options._timeout)
        raise InputError("seen")

    monkeypatch.setattr("training.train.fit", look)
    try:
        assert cli(*train(photo_folder, tmp_path / "run")).code == 1
    finally:
        dist.destroy_process_group()
    assert timeouts[0] > timedelta(hours=12)


def test_compiling_that_fails_is_one_line(photo_folder: Path, tmp_path: Path) -> None:
    """Without a C++ compiler in the search path."""
    flags = ("--recipe", "torchvision", "--epochs", "1", "--workers", "0", "--skip-preflight", "--compile")
    nowhere = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    code, stderr = TrainingProcess(*train(photo_folder, tmp_path / "run", *flags), **nowhere).finish()
    assert code == 1, stderr
    *notes, line = stderr.splitlines()
    assert len(notes) == 1, "that the data is little, and no traceback"
    assert line.startswith("error: --compile: torch cannot compile the network here (")
    assert "leave --compile out" in line
