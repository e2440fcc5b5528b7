"""``python -m training compress``: the checkpoint it writes, its fine-tuning, its table, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.errors import UnavailableError
from alexnet_deploy.files import sha256_of
from alexnet_deploy.model.architecture import AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.command import Command
from tests.helpers.models.tiny_runs import TINY, identical
from tests.helpers.photos import CLASSES, save_photo
from training.cli.compress import rank_table
from training.compress.compress import CompressSettings
from training.compress.compress import compress as compress_in_python
from training.compress.rank_table import RankRow
from training.loop import fit
from training.loop.run import Run

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A tiny network of full rank with 32 hidden units."""
    arch = get_architecture("alexnet", num_classes=len(CLASSES), **(TINY | {"hidden": 32}))
    torch.manual_seed(0)
    contract = ModelContract("alexnet", ("red", "green", "blue"), tuple(CLASSES))
    checkpoint = Checkpoint(arch, contract, AlexNet(arch).state_dict(), {"source": "random"})
    return save_checkpoint(checkpoint, tmp_path / "full.safetensors")


@pytest.fixture
def compress(cli: Command, full: Path, photo_folder: Path) -> Command:
    """Run the command on ``full`` and the photos."""
    return lambda *flags: cli("compress", full, photo_folder, *flags, "--workers", 0)


def test_rank(compress: Command, cli: Command, full: Path, photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    code, printed, err = compress("--rank", 8, "--output", out, "--images", 10, "--json")
    small = load_checkpoint(out)
    assert small.arch.dense_rank == 8
    summary = small.recipe["compressed"]
    assert json.loads(printed) == summary
    assert (summary["asked"], summary["images"], summary["parent_sha256"]) == ({"rank": 8}, 10, sha256_of(full))
    assert summary["parent_recipe"] == {"source": "random"}
    parent, weights = (sum(value.numel() for value in load_checkpoint(p).weights.values()) for p in (full, out))
    assert code == 0
    assert err.startswith(f"rank 8, {weights:,} of {parent:,} weights; energy kept: ")
    assert err.endswith(f"\nwrote {out}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full.safetensors", "small.safetensors"]
    again = cli("compress", out, photo_folder, "--rank", 2, "--output", tmp_path / "out.safetensors")
    assert again.err == f"error: {out}: already has rank 8; give the full checkpoint that it was made from\n"


def test_energy_keeps_what_was_asked_in_both_layers(compress: Command, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    assert compress("--energy", "0.6", "--output", out).code == 0
    summary = load_checkpoint(out).recipe["compressed"]
    assert min(summary["energy_kept"].values()) >= 0.6
    assert summary["asked"] == {"energy": 0.6}


def test_a_stopped_fine_tuning_resumes_to_the_weights_of_an_undisturbed_one_and_of_no_other(
    compress: Command, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--images", 10, "--epochs", 2, "--batch", 6, "--output")
    assert compress("--rank", 8, *flags, tmp_path / "undisturbed.safetensors").code == 0
    disturbed = ("--rank", 8, *flags, tmp_path / "disturbed.safetensors")

    def stopping(run: Run, **how: Any) -> Path:
        def on_progress(stage: str, done: int, total: int) -> None:
            if done == 4:
                os.kill(os.getpid(), signal.SIGINT)

        return fit.fit(run, **(how | {"on_progress": on_progress}))

    with monkeypatch.context() as patch:
        patch.setattr("training.compress.compress.fit", stopping)
        code, _, err = compress(*disturbed)
    assert code == 130
    assert "stopped at step 4, saved; continue with --resume" in err
    assert not (tmp_path / "disturbed.safetensors").exists()
    # What it began with is on disk: a second decomposition, whose signs may differ, is not asked for.
    monkeypatch.setattr(
        "training.compress.compress.decompose_hidden_layers", lambda *_, **__: pytest.fail("decomposed again")
    )
    assert compress(*disturbed, "--resume").code == 0
    one, other = (load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("undisturbed", "disturbed"))
    assert identical(one.weights, other.weights)
    assert one.recipe["recipe"]["name"] == "finetune"
    assert one.recipe["compressed"]["parent_sha256"] == sha256_of(full)
    start = load_checkpoint(tmp_path / "disturbed.run" / "start.safetensors")
    assert one.arch == start.arch
    assert not torch.equal(one.weights["classifier.6.weight"], start.weights["classifier.6.weight"])
    for more, message in (
        (("--rank", 8), "already holds a run; add --resume to continue it"),
        (("--rank", 7, "--resume"), "this run had asked {'rank': 8}, now it is {'rank': 7}"),
        (("--rank", 8, "--resume", "--lr", "0.01"), "this run had --lr 0.0001, now it is 0.01"),
    ):
        code, _, err = compress(*flags, tmp_path / "disturbed.safetensors", *more)
        assert code == 1
        assert message in err


def test_a_second_one_is_refused_before_it_replaces_what_the_first_began_with(
    full: Path, photo_folder: Path, tmp_path: Path
) -> None:
    out, settings = tmp_path / "small.safetensors", CompressSettings(rank=8, images=10, epochs=1, batch=6, workers=0)
    stages: list[str] = []

    def second(stage: str, done: int, total: int) -> None:
        if stage == "training" and stage not in stages:
            with pytest.raises(UnavailableError, match=r"small\.run: another process writes it"):
                compress_in_python(full, photo_folder, out, dataclasses.replace(settings, rank=4))
        stages.append(stage)

    assert compress_in_python(full, photo_folder, out, settings, on_progress=second).arch.dense_rank == 8
    assert "training" in stages
    assert load_checkpoint(tmp_path / "small.run" / "start.safetensors").arch.dense_rank == 8


def test_the_table_begins_with_the_full_model(compress: Command) -> None:
    pytest.importorskip("openvino")
    rows = json.loads(compress("--table", "15", "--duration", "10ms", "--json").out)
    assert [row["rank"] for row in rows] == [None, 15]
    flat = 6 * 6 * TINY["widths"][-1]
    first = 15 * (flat + 32) - 32 * flat  # weights more than in the full layer: fewer
    second = 15 * (32 + 32) - 32 * 32
    assert rows[1]["parameters"] - rows[0]["parameters"] == first + second
    assert rows[0]["energy_kept"] is None
    assert 0.9 < rows[1]["energy_kept"] <= 1
    assert all(row["batch1_ms"] > 0 and 0 <= row["top1_percent"] <= 100 for row in rows)


def test_a_table_for_people() -> None:
    from rich.console import Console

    full_row = RankRow(None, 58_322_314, 111.24, None, 81.128, 5.712, "OpenVINO on CPU")
    rows = (full_row, RankRow(64, 3_896_778, 7.43, 0.98765, 80.0, 1.25, "OpenVINO on CPU"))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(rank_table(rows))
    _, full_line, small_line = (" ".join(line.split()) for line in capture.get().splitlines())
    assert full_line == "full 58,322,314 100.0 % 111.24 81.13 % 5.71 ms"
    assert small_line == "64 3,896,778 6.7 % 7.43 98.77 % 80.00 % 1.25 ms"


class TestRefused:
    """What is wrong is one line and an exit code, and nothing is written."""

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            ("", 2, "give one of --rank, --energy and --table"),
            ("--rank 2 --energy 0.5", 2, "give one of --rank, --energy and --table"),
            ("--rank 0 --output OUT", 2, "--rank 0: rank 0 is not within 1..15"),
            ("--rank 16 --output OUT", 2, "--rank 16: rank 16 is not within 1..15, where the factors"),
            ("--table 2,16", 2, "--table 2,16: rank 16 is not within 1..15"),
            ("--table 2,-1", 2, "--table 2,-1: rank -1 is not within"),
            ("--table 2 --epochs 1", 2, "--table: only measures"),
            ("--energy -1", 2, "--energy -1.0: must be a share above 0 and at most 1"),
            ("--energy 0", 2, "--energy 0.0: must be a share above 0 and at most 1"),
            ("--energy 1.001", 2, "--energy 1.001: must be a share above 0 and at most 1"),
            ("--energy nan", 2, "--energy nan: must be a share above 0 and at most 1"),
            ("--energy 1 --output OUT --images 0", 2, "--energy 1.0: rank 32 is not within 1..15"),
            ("--rank 2 --images 1", 2, "--images 1: one image has no variance"),
            ("--rank 2", 2, "--output: is missing; name the .safetensors file to write"),
            ("--rank 2 --output small.onnx", 2, "--output small.onnx: does not end in one of .safetensors"),
            ("--rank 2 --output FULL", 2, "is the checkpoint that it is made from; choose another name"),
            ("--rank 2 --output FULL/small.safetensors", 1, "cannot be written (Not a directory); choose another"),
            ("--rank 2 --output OUT --resume", 2, "--resume: continues a fine-tuning; give the --epochs"),
            ("--rank 2 --output OUT --epochs 1 --resume", 1, "OUT.run: holds no run to resume; leave --resume out"),
            ("--rank 2 --output OUT --lr 0.001", 2, "--lr: takes part in a fine-tuning; give its --epochs"),
            ("--rank 2 --output OUT --batch 7", 2, "--batch: takes part in a fine-tuning; give its --epochs"),
            ("--rank 2 --output OUT --distill-temperature 3", 2, "--distill-temperature: takes part in a fine-tuning"),
            ("--rank 2 --output OUT --duration 9s", 2, "--duration: is how long --table times each rank"),
            ("--rank 2 --output OUT --epochs 1 --lr 0", 2, "--lr 0.0: must be a number from 1e-08 to 100"),
            ("--rank 2 --output OUT --epochs 1 --batch 19", 2, "--batch 19: exceeds the 18 training images"),
            ("--rank 2 --output OUT --epochs 1 --val nowhere", 1, "nowhere: no such folder"),
        ],
    )
    def test_a_flag_that_cannot_be(
        self, compress: Command, full: Path, tmp_path: Path, flags: str, code: int, message: str
    ) -> None:
        named = flags.replace("OUT", str(tmp_path / "OUT.safetensors")).replace("FULL", str(full))
        result = compress(*named.split())
        assert result.code == code
        assert result.err.startswith("error: ")
        assert message in result.err
        assert result.err.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["full.safetensors"]

    def test_data_that_does_not_fit(self, cli: Command, full: Path, photo_folder: Path, tmp_path: Path) -> None:
        for name in (*CLASSES, "zebra"):
            save_photo(tmp_path / "four" / name / "0.jpg", (0, 0, 0), 0)
        for name in CLASSES:
            save_photo(tmp_path / "other" / name.replace("red", "rose") / "0.jpg", (0, 0, 0), 0)
        flags = ("--rank", 2, "--output", tmp_path / "o.safetensors", "--epochs", 1, "--batch", 9)
        for folder, message in (
            (tmp_path / "four", f"its 4 classes are not the 3 of {full} ('zebra'); give the data that it was trained"),
            (tmp_path / "other", f"its 3 classes are not the 3 of {full} ("),
            (photo_folder / "train", "has no val/; give --val with images that"),
        ):
            code, _, err = cli("compress", full, folder, *flags)
            assert code == 1
            assert err.startswith(f"error: {folder}: {message}")
