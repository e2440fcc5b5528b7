"""A run learns, survives kills bit by bit, is the same on two processes, and says what is wrong with its input."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import ArtifactError, InputError, ProofError
from alexnet_deploy.images.decode import load_pixels
from alexnet_deploy.model.architecture import AlexNet, PixelClassifier, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.helpers.photos import CLASSES, save_photo
from tests.helpers.repository import ROOT
from training.__main__ import main
from training.data.augment import measure_colours, paper_square, ten_crops
from training.data.listing import list_class_folders, list_val_images
from training.evaluate import evaluate_checkpoint, mean_probability
from training.loop.fit import EpochMetrics, Interrupted, Run, train
from training.loop.state import STATE_FILE
from training.pack import pack
from training.recipes import recipe


@pytest.fixture
def tiny_run(photo_folder: Path, tmp_path: Path) -> Run:
    """Two epochs of three steps; 32 hidden units instead of 4096, and everything in this process."""
    train_files = list_class_folders(photo_folder / "train")
    return Run(
        arch=get_architecture("alexnet", num_classes=3, hidden=32),
        recipe=recipe("modern", epochs=2, batch=6, ema_decay=0.998),
        train=train_files,
        val=list_class_folders(photo_folder / "val", class_ids=train_files.class_ids),
        data_digest=train_files.digest(photo_folder / "train"),
        labels=("red", "green", "blue"),
        preprocessing=Preprocessing(),
        output=tmp_path / "run",
        workers=0,
    )


def rows_of(run: Run, *, on_step: Callable[[int, int], None] = lambda step, total: None) -> list[EpochMetrics]:
    rows: list[EpochMetrics] = []
    train(run, on_epoch=rows.append, on_step=on_step)
    return rows


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(output / "checkpoint.safetensors").weights


def identical(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestRun:
    def test_two_epochs_learn_and_leave_a_whole_record(self, tiny_run: Run) -> None:
        run = dataclasses.replace(tiny_run, arch=dataclasses.replace(tiny_run.arch, dropout=0.0))
        steps: list[tuple[int, int]] = []
        rows = rows_of(run, on_step=lambda *step: steps.append(step))
        assert steps == [(step, 6) for step in range(1, 7)]
        assert rows[1].train_loss < 0.8 * rows[0].train_loss
        assert [row.epoch for row in rows] == [1, 2]
        assert metrics(run.output) == [dataclasses.asdict(row) for row in rows]
        checkpoint = load_checkpoint(run.output / "checkpoint.safetensors")
        assert checkpoint.arch == run.arch
        assert checkpoint.contract.class_ids == tuple(CLASSES)
        assert checkpoint.contract.labels == ("red", "green", "blue")
        assert checkpoint.recipe["recipe"] == json.loads(json.dumps(run.recipe.to_dict()))
        assert checkpoint.recipe["result"] == dataclasses.asdict(rows[1])
        left = sorted(path.name for path in run.output.iterdir() if not path.name.startswith("events.out.tfevents."))
        assert left == ["checkpoint.safetensors", "curves.png", "metrics.jsonl", STATE_FILE]

    def test_the_same_seed_gives_the_same_weights_and_another_other_ones(self, tiny_run: Run, tmp_path: Path) -> None:
        for name, seed in (("a", 2**40), ("b", 2**40), ("c", 1)):
            rows_of(dataclasses.replace(tiny_run, output=tmp_path / name, seed=seed))
        assert identical(weights(tmp_path / "a"), weights(tmp_path / "b"))
        assert not identical(weights(tmp_path / "a"), weights(tmp_path / "c"))

    @pytest.mark.parametrize("recipe_name", ["modern", "torchvision", "paper"])
    def test_stopping_at_any_step_and_resuming_changes_no_bit(
        self, tiny_run: Run, tmp_path: Path, recipe_name: str
    ) -> None:
        tiny_run = dataclasses.replace(tiny_run, recipe=recipe(recipe_name, epochs=2, batch=6, lr=1e-4))
        before = signal.getsignal(signal.SIGINT)  # a background job of a shell ignores it
        undisturbed = dataclasses.replace(tiny_run, output=tmp_path / "undisturbed")
        rows_of(undisturbed)
        run = dataclasses.replace(tiny_run, output=tmp_path / "stopped")

        def stop_at(step: int, total: int) -> None:
            if step in (1, 3, 5):
                os.kill(os.getpid(), signal.SIGINT)

        for _ in range(3):
            with pytest.raises(Interrupted, match=r"stopped at step [135], saved; go on with --resume"):
                rows_of(run, on_step=stop_at)
            run = dataclasses.replace(run, resume=True)
        rows_of(run)
        assert identical(weights(run.output), weights(undisturbed.output))
        assert [row["epoch"] for row in metrics(run.output)] == [1, 2]
        assert signal.getsignal(signal.SIGINT) == before

    def test_the_paper_lowers_the_rate_on_a_plateau_and_a_resumed_run_remembers_it(
        self, tiny_run: Run, tmp_path: Path
    ) -> None:
        # At so small a rate no answer changes, so each epoch after the first adds to the plateau.
        stalling = dataclasses.replace(recipe("paper", epochs=4, batch=18, lr=1e-8), patience=2)
        undisturbed = dataclasses.replace(tiny_run, recipe=stalling, output=tmp_path / "undisturbed")
        rates = [1e-8, 1e-8, 1e-8, 1e-9]
        assert [row.lr for row in rows_of(undisturbed)] == pytest.approx(rates, rel=1e-9)
        run = dataclasses.replace(undisturbed, output=tmp_path / "stopped")

        def stop_at(step: int, total: int) -> None:
            if step in (1, 3):
                os.kill(os.getpid(), signal.SIGINT)

        for _ in range(2):
            with pytest.raises(Interrupted):
                rows_of(run, on_step=stop_at)
            run = dataclasses.replace(run, resume=True)
        rows_of(run)
        assert [row["lr"] for row in metrics(run.output)] == pytest.approx(rates, rel=1e-9)
        assert identical(weights(run.output), weights(undisturbed.output))
        colours = load_checkpoint(run.output / "checkpoint.safetensors").recipe["colours"]
        measured = dataclasses.asdict(measure_colours(run.train.files, run.seed))
        assert colours == json.loads(json.dumps(measured))

    def test_a_signal_in_the_last_step_finishes_the_run(self, tiny_run: Run) -> None:
        def stop_at_the_end(step: int, total: int) -> None:
            if step == total:
                os.kill(os.getpid(), signal.SIGTERM)

        rows_of(tiny_run, on_step=stop_at_the_end)
        assert (tiny_run.output / "checkpoint.safetensors").is_file()

    def test_a_kill_while_the_checkpoint_is_saved_loses_no_checkpoint(
        self, tiny_run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr("training.loop.writer.save_checkpoint", lambda *_: sys.exit())
            rows_of(dataclasses.replace(tiny_run, val_every=2))
        assert [row.epoch for row in rows_of(dataclasses.replace(tiny_run, resume=True))] == [2]
        assert (tiny_run.output / "checkpoint.safetensors").is_file()

    def test_a_stopped_run_leaves_the_checkpoint_of_its_last_validation(self, tiny_run: Run) -> None:
        def stop_in_the_last_epoch(step: int, total: int) -> None:
            if step == total - 1:
                os.kill(os.getpid(), signal.SIGTERM)

        run = dataclasses.replace(tiny_run, recipe=recipe("modern", epochs=4, batch=18), val_every=2)
        with pytest.raises(Interrupted):
            rows_of(run, on_step=stop_in_the_last_epoch)
        checkpoint = load_checkpoint(run.output / "checkpoint.safetensors")
        assert checkpoint.recipe["result"] == metrics(run.output)[1]
        assert checkpoint.recipe["result"]["epoch"] == 2

    def test_a_loss_that_explodes_stops_the_run_and_saves_nothing(self, tiny_run: Run) -> None:
        with pytest.raises(ProofError, match=r"run: the loss became (nan|inf) in epoch 1; lower --lr"):
            rows_of(dataclasses.replace(tiny_run, recipe=recipe("torchvision", epochs=1, batch=6, lr=100.0)))
        assert not tiny_run.output.exists()


class TestResume:
    @pytest.fixture
    def finished(self, tiny_run: Run) -> Run:
        run = dataclasses.replace(tiny_run, recipe=recipe("modern", epochs=1, batch=18))
        rows_of(run)
        return dataclasses.replace(run, resume=True)

    def test_a_finished_run_has_nothing_left_to_do(self, finished: Run) -> None:
        assert rows_of(finished) == []

    def test_a_finished_run_writes_a_lost_checkpoint_again(self, finished: Run) -> None:
        path = finished.output / "checkpoint.safetensors"
        before = load_checkpoint(path)
        path.unlink()
        assert rows_of(finished) == []
        assert identical(weights(finished.output), before.weights)
        assert load_checkpoint(path).recipe == before.recipe

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"seed": 1}, "this run had seed 0, now it is 1; use the same flags and data, or another --output"),
            ({"data_digest": "other"}, "this run had other data; use the same flags"),
            ({"preprocessing": Preprocessing(resize_to=300)}, "had preprocessing.resize_to 256, now it is 300; use"),
            ({"recipe": recipe("modern", epochs=2, batch=18)}, "this run had recipe.epochs 1, now it is 2; use"),
            ({"arch": get_architecture("alexnet", num_classes=3, hidden=33)}, "had arch.hidden 32, now it is 33; use"),
            (
                {"recipe": recipe("torchvision", epochs=1, batch=18)},
                "recipe.name modern, now it is torchvision, and recipe.optimizer adamw, now it is sgd, and "
                "recipe.lr 0.0005, now it is 0.01 (and ",
            ),
        ],
    )
    def test_another_configuration_is_refused(self, finished: Run, change: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError) as caught:
            rows_of(dataclasses.replace(finished, **change))
        assert str(caught.value).startswith(f"{finished.output}: ")
        assert says in str(caught.value)

    def test_the_validated_epochs_belong_to_a_run_whose_rate_follows_them(self, tiny_run: Run) -> None:
        for name, belong in (("modern", False), ("paper", True)):
            run = dataclasses.replace(tiny_run, recipe=recipe(name))
            assert (dataclasses.replace(run, val_every=2).config() != run.config()) is belong

    def test_a_run_is_not_overwritten_without_resume(self, finished: Run) -> None:
        with pytest.raises(InputError, match="already holds a run; add --resume to continue it"):
            rows_of(dataclasses.replace(finished, resume=False))

    def test_nothing_to_resume_is_told(self, tiny_run: Run) -> None:
        with pytest.raises(InputError, match=r"holds no run to resume; leave --resume out to start one"):
            rows_of(dataclasses.replace(tiny_run, resume=True))

    @pytest.mark.parametrize("share", [0, 0.001, 0.9])
    def test_a_truncated_state_is_an_artifact_error(self, finished: Run, share: float) -> None:
        state = finished.output / STATE_FILE
        state.write_bytes(state.read_bytes()[: int(share * state.stat().st_size)])
        with pytest.raises(ArtifactError, match="is not a readable training state"):
            rows_of(finished)

    def test_a_checkpoint_in_place_of_the_state_is_an_artifact_error(self, finished: Run) -> None:
        shutil.copy(finished.output / "checkpoint.safetensors", finished.output / STATE_FILE)
        with pytest.raises(ArtifactError, match="is not a readable training state"):
            rows_of(finished)


def command(data: Path, output: Path, *flags: str) -> list[str]:
    """Four epochs of three steps, with a rank so small that saving takes no time."""
    small = ["--dense-rank", "4", "--epochs", "4", "--batch", "6", "--workers", "1"]
    return [str(data), "--output", str(output), *small, *flags]


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    threads = {"OMP_NUM_THREADS": "1"}  # as many in every run: another split of a sum has other bits
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | threads | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> None:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(f"epoch   {epoch}/"):
            return
    pytest.fail(f"ended before epoch {epoch}: {''.join(lines)}")


def test_kill_9_and_sigterm_and_resume_give_the_weights_of_an_undisturbed_run(
    photo_folder: Path, tmp_path: Path
) -> None:
    undisturbed = start("training", *command(photo_folder, tmp_path / "undisturbed"))
    disturbed = command(photo_folder, tmp_path / "disturbed")
    process = start("training", *disturbed)
    wait_for_epoch(process, 1)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start("training", *disturbed, "--resume")
    wait_for_epoch(process, 2)
    os.killpg(process.pid, signal.SIGTERM)  # the processes that decode hear it, too
    _, told = process.communicate()
    assert process.returncode == 130
    assert "saved; go on with --resume" in told
    assert "Traceback" not in told
    process = start("training", *disturbed, "--resume")
    _, told = process.communicate()
    assert process.returncode == 0, told
    _, told = undisturbed.communicate()
    assert undisturbed.returncode == 0, told
    assert identical(weights(tmp_path / "disturbed"), weights(tmp_path / "undisturbed"))
    assert [row["epoch"] for row in metrics(tmp_path / "disturbed")] == [1, 2, 3, 4]


def test_a_killed_decoding_process_is_one_line(photo_folder: Path, tmp_path: Path) -> None:
    process = start("training", *command(photo_folder, tmp_path / "run", "--epochs", "1000"))
    wait_for_epoch(process, 1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    decoders = [int(pid) for pid in children if b"training" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(decoders[0], signal.SIGKILL)  # as the kernel does where memory runs out
    _, told = process.communicate()
    assert process.returncode == 1
    assert "error: a process that decodes images was killed" in told
    assert "Traceback" not in told


def test_two_processes_have_the_loss_curve_of_one(photo_folder: Path, tmp_path: Path) -> None:
    # Without dropout, whose masks differ between shares of a batch; at a rate that lets no rounding error grow.
    flags = ("--recipe", "torchvision", "--lr", "1e-5", "--dense-rank", "32", "--dropout", "0", "--epochs", "2")
    two = start(
        "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training",
        *command(photo_folder, tmp_path / "two", *flags),
    )  # fmt: skip
    one = start("training", *command(photo_folder, tmp_path / "one", *flags))
    for process in (one, two):
        _, told = process.communicate()
        assert process.returncode == 0, told
    for alone, together in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for name in ("train_loss", "val_loss"):
            # bfloat16 rounds each process's share of a gradient to 8 bits before the sum: 0.6 % after six steps here.
            # A gradient summed instead of averaged is off by 20 %, the loss of one share alone by more.
            assert together[name] == pytest.approx(alone[name], rel=0.03), name
        assert together["lr"] == alone["lr"]


def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(photo_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    # As torchrun starts them, but without its own exit code and report.
    lead, other = (
        start(
            "training", *command(photo_folder, tmp_path / "run", "--epochs", "1000"),
            RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port,
        )
        for rank in "01"
    )  # fmt: skip
    wait_for_epoch(lead, 1)
    other.send_signal(signal.SIGTERM)
    told_by_lead, told_by_other = (process.communicate()[1] for process in (lead, other))
    assert (lead.returncode, other.returncode) == (130, 130), told_by_lead + told_by_other
    stopped = re.search(r"stopped at step (\d+), saved; go on with --resume", told_by_lead)
    assert stopped is not None
    with safe_open(tmp_path / "run" / STATE_FILE, framework="pt") as state:
        assert json.loads(state.metadata()["alexnet_deploy.training"])["step"] == int(stopped[1])
    assert "Traceback" not in told_by_lead + told_by_other
    assert "stopped" not in told_by_other


def test_two_processes_leave_out_what_the_first_cannot_read(photo_folder: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    bad = photos / "train" / "n01_red" / "0.jpg"
    bad.write_bytes(b"")
    two = (
        "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training",
        *command(photos, tmp_path / "run", "--recipe", "paper", "--epochs", "1"),
    )  # fmt: skip
    process = start(*two)
    _, told = process.communicate()
    assert process.returncode == 1, told
    assert told.count(f"error: {bad}: ") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["preflight.txt"]
    process = start(*two, "--allow-unreadable")
    _, told = process.communicate()
    assert process.returncode == 0, told
    bad.unlink()
    readable = [list_class_folders(photos / split).digest(photos / split) for split in ("train", "val")]
    assert load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").recipe["data"] == "".join(readable)


class TestCommand:
    """``python -m training``: what is wrong is one line and an exit code."""

    @pytest.fixture(autouse=True)
    def _no_training(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("training.train_command.train", lambda *_, **__: pytest.fail("was not refused"))

    def refused(self, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str) -> None:
        assert main(arguments) == code
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert told.count("\n") == 1
        assert says in told

    @pytest.mark.parametrize(
        ("flags", "code", "says"),
        [
            (["--lr", "0"], 2, "--lr 0.0: is not within 1e-08..100.0"),
            (["--epochs", "0"], 2, "--epochs 0: is not within"),
            (["--arch", "lenet"], 2, "--arch lenet: unknown; choose one of alexnet"),
            (["--recipe", "quick"], 2, "--recipe quick: unknown; choose one of torchvision, modern"),
            (["--dropout", "1"], 2, "--dropout 1.0: takes a probability"),
            (["--dense-rank", "4096"], 2, "--dense-rank 4096: takes 1 to 4095"),
            (["--activation", "gelu"], 2, "--activation gelu: takes relu or tanh"),
            (["--lrn", "yes"], 2, "--lrn yes: takes none, before-pool or after-pool"),
            (["--pool", "mean"], 2, "--pool mean: takes overlapping or plain"),
            (["--groups", "2"], 2, "--groups 2: takes five whole numbers, one a convolution, such as 1,2,1,2,2"),
            (["--groups", "1,2,1,0,2"], 2, "--groups 1,2,1,0,2: takes five whole numbers"),
            (["--groups", "1,2,one,2,2"], 2, "--groups 1,2,one,2,2: takes five whole numbers"),
            (["--groups", "2,1,1,1,1"], 2, "2 does not divide the 3 channels into convolution 1 of alexnet"),
            (["--groups", "1,1,1,1,3"], 2, "3 does not divide the 256 channels into convolution 5 of alexnet"),
            (["--resize", "crop"], 2, "--resize crop: takes stretch or shorter-side"),
            (["--val", "nowhere"], 1, "nowhere: no such folder"),
            (["--val-share", "nan"], 2, "/val is there to validate on; leave --val-share out"),
            (["--class-names", "nowhere.json"], 1, "nowhere.json: is not a readable JSON object"),
            (["--output", "/sys/run"], 1, "--output /sys/run: cannot be made"),
            (["--output", "/dev/null"], 1, "--output /dev/null: cannot be made"),
        ],
    )
    def test_a_flag_that_cannot_be(
        self,
        photo_folder: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        flags: list[str],
        code: int,
        says: str,
    ) -> None:
        self.refused(capsys, [str(photo_folder), "--output", str(tmp_path / "run"), *flags], code, says)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "flags", [["--seed", "-1"], ["--workers", "-1"], ["--workers", "257"], ["--seed", str(2**63)], ["--lr", "fast"]]
    )
    def test_a_flag_that_the_parser_refuses(self, photo_folder: Path, tmp_path: Path, flags: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main([str(photo_folder), "--output", str(tmp_path), *flags])
        assert caught.value.code == 2

    def test_a_missing_data_folder_with_brackets_in_its_name(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = tmp_path / "[/x] [bold]" / ("long " * 20)
        self.refused(capsys, [str(data), "--output", str(tmp_path / "run")], 1, f"{data}: no such folder")

    def test_labels_without_a_folder_that_they_are_for(
        self, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [str(photo_folder / "train"), "--output", str(tmp_path / "run"), "--val-labels", "val.txt"]
        self.refused(capsys, arguments, 2, "--val-labels val.txt: there is no folder of validation images; add --val")

    def test_a_folder_with_the_name_of_a_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("train").mkdir()
        with pytest.raises(SystemExit) as caught:
            main(["train", "--output", "run"])
        assert caught.value.code == 2
        *_, told = capsys.readouterr().err.splitlines()
        assert told == "'train' was taken for the command; if the folder of that name is meant, give ./train"

    def test_a_class_of_the_validation_folder_is_unknown(
        self, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(photo_folder, tmp_path / "photos")
        save_photo(tmp_path / "photos" / "val" / "zebra" / "0.jpg", (0, 0, 0), 0)
        arguments = [str(tmp_path / "photos"), "--output", str(tmp_path / "run")]
        self.refused(capsys, arguments, 1, "class 'zebra' is not in the training data")

    def test_class_names_that_lack_one(
        self, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = tmp_path / "names.json"
        names.write_text(json.dumps({"n01_red": "red"}))
        arguments = [str(photo_folder), "--output", str(tmp_path / "run"), "--class-names", str(names)]
        self.refused(capsys, arguments, 1, f"{names}: names no class 'n02_green'; add it")


class TestSwitches:
    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
        """The runs that would have been trained."""
        runs: list[Run] = []
        monkeypatch.setattr("training.train_command.train", lambda run, **_: runs.append(run))
        return runs

    def test_the_papers_switches_change_the_architecture(
        self, photo_folder: Path, tmp_path: Path, runs: list[Run]
    ) -> None:
        flags = ["--activation", "tanh", "--lrn", "after-pool", "--pool", "plain", "--groups", "1,2,1,2,4"]
        with pytest.raises(SystemExit):
            main([str(photo_folder), "--output", str(tmp_path), *flags])
        assert runs[0].arch == dataclasses.replace(
            get_architecture("alexnet", num_classes=3),
            activation="tanh", lrn="after-pool", overlapping_pool=False, groups=(1, 2, 1, 2, 4),
        )  # fmt: skip
        AlexNet(runs[0].arch)

    def test_without_them_it_is_the_familys_own(self, photo_folder: Path, tmp_path: Path, runs: list[Run]) -> None:
        for flags in ([], ["--lrn", "none"]):
            with pytest.raises(SystemExit):
                main([str(photo_folder), "--output", str(tmp_path), "--arch", "alexnet-2012", *flags])
        own = get_architecture("alexnet-2012", num_classes=3)
        assert [run.arch for run in runs] == [own, dataclasses.replace(own, lrn="none")]

    def test_the_paper_has_raw_pixels_in_its_contract(
        self, photo_folder: Path, tmp_path: Path, runs: list[Run]
    ) -> None:
        with pytest.raises(SystemExit):
            main([str(photo_folder), "--output", str(tmp_path), "--recipe", "paper", "--resize", "stretch"])
        assert runs[0].preprocessing == Preprocessing(resize="stretch", resize_to=None, std=(1 / 255,) * 3)


def test_a_batch_above_the_images_is_refused_before_the_first_step(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photo_folder, tmp_path / "run", "--batch", "19")) == 2
    assert capsys.readouterr().err == "error: --batch 19: exceeds the 18 training images; lower it\n"


def test_another_split_is_another_run(photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Resuming with another --val-share would train on images that were held out before."""
    flags = ("--epochs", "1", "--workers", "0")
    split = command(photo_folder / "train", tmp_path / "run", "--val-share", "0.2", *flags)
    with pytest.raises(SystemExit) as caught:
        main(split)
    assert caught.value.code == 0
    assert main([*split, "--val-share", "0.4", "--resume"]) == 1
    assert "this run had other data; " in capsys.readouterr().err


def test_what_cannot_begin_is_told_before_the_data_is_read(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    (photos / "train" / "n01_red" / "0.jpg").write_bytes(b"")  # what the preflight would tell, in a table
    flags = command(photos, tmp_path / "run", "--epochs", "1", "--workers", "0", "--allow-unreadable")

    def refused(*more: str) -> str:
        capsys.readouterr()
        assert main([*flags, *more]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "holds no run to resume; leave --resume out to start one" in refused("--resume")
    for more in ([], ["--resume"]):
        with pytest.raises(SystemExit) as caught:
            main([*flags, *more])
        assert caught.value.code == 0
    assert "already holds a run; add --resume" in refused()
    assert "this run had recipe.lr 0.0005, now it is 0.001; use the same flags" in refused("--resume", "--lr", "0.001")


class TestEvaluate:
    def test_it_counts_right_answers_in_all_and_by_class(
        self, tiny_run: Run, photo_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows_of(dataclasses.replace(tiny_run, recipe=recipe("modern", epochs=1, batch=18)))
        path = tiny_run.output / "checkpoint.safetensors"
        checkpoint = load_checkpoint(path)
        bias = checkpoint.weights["classifier.6.bias"]
        bias[:] = torch.tensor([0.0, 1e6, 1e5])  # always green, then blue
        images = list_class_folders(photo_folder / "val")
        result = evaluate_checkpoint(checkpoint, images, workers=0)
        assert result == {
            "images": 6,
            "views": 1,
            "top1_percent": 33.333,
            "top5_percent": 100.0,
            "top1_percent_by_class": {"n01_red": 0.0, "n02_green": 100.0, "n03_blue": 0.0},
        }
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", str(path), str(photo_folder / "val"), "--workers", "0"])
        assert caught.value.code == 0
        assert json.loads(capsys.readouterr().out)["images"] == 6
        counted = evaluate_checkpoint(checkpoint, images, workers=0, confusion=True)
        assert counted == result | {"confusion": [[0, 2, 0]] * 3}  # two photos a class, all taken for green

    def test_ten_crops_average_the_softmax_of_ten_views(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pre = tiny_checkpoint.contract.preprocessing
        listing = list_class_folders(photo_folder / "val")
        classifier = PixelClassifier(tiny_checkpoint.build(), pre.mean, pre.std).eval()
        right = []
        with torch.inference_mode():
            for file, target in zip(listing.files, listing.targets, strict=True):
                views_VHWC = ten_crops(load_pixels(file, paper_square(pre)), pre.height, pre.width)
                mean_K = classifier(torch.from_numpy(views_VHWC)).softmax(1).mean(0)
                right.append(mean_K.argmax().item() == target)
        path = save_checkpoint(tiny_checkpoint, tmp_path / "checkpoint.safetensors")
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", str(path), str(photo_folder / "val"), "--workers", "0", "--ten-crop"])
        assert caught.value.code == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["images"], result["views"]) == (6, 10)
        assert result["top1_percent"] == round(100 * sum(right) / 6, 3)

    def test_views_are_averaged_as_probabilities_not_as_logits(self) -> None:
        """One view is very sure of the second class, nine lean to the first: e / (e + 2) = 0.5761 each."""
        logits_NVK = torch.tensor([[[0.0, 100.0, 0.0], *[[1.0, 0.0, 0.0]] * 9]])
        expected = [0.9 * 0.5761, 0.1 + 0.9 * 0.2119, 0.9 * 0.2119]
        assert mean_probability(logits_NVK)[0].tolist() == pytest.approx(expected, abs=1e-4)
        unlikely = mean_probability(torch.tensor([[[500.0, 0.0, 10.0]]]))[0]
        assert unlikely.argsort(descending=True).tolist() == [0, 2, 1]

    def test_a_subset_of_the_classes_is_measured_alone(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(photo_folder / "val" / "n03_blue", tmp_path / "n03_blue")
        result = evaluate_checkpoint(tiny_checkpoint, list_val_images(tmp_path, tuple(CLASSES)), workers=0)
        assert result["images"] == 2
        assert result["top1_percent_by_class"].keys() == {"n03_blue"}


class TestPack:
    def test_half_the_size_with_the_accuracy_that_it_then_has(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path
    ) -> None:
        source = save_checkpoint(tiny_checkpoint, tmp_path / "source.safetensors")
        result = pack(source, tmp_path / "packed.safetensors", photo_folder / "val", workers=0)
        packed = load_checkpoint(tmp_path / "packed.safetensors")
        assert {value.dtype for value in packed.weights.values()} == {torch.float16}
        assert packed.recipe == tiny_checkpoint.recipe | {"evaluation": result}
        assert result == evaluate_checkpoint(packed, list_class_folders(photo_folder / "val"), workers=0)
        assert (packed.arch, packed.contract) == (tiny_checkpoint.arch, tiny_checkpoint.contract)

    def test_a_weight_beyond_float16_is_refused(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path
    ) -> None:
        weights = tiny_checkpoint.weights | {"classifier.6.bias": torch.tensor([0.0, 70_000.0, 0.0])}
        source = save_checkpoint(dataclasses.replace(tiny_checkpoint, weights=weights), tmp_path / "source.safetensors")
        with pytest.raises(InputError, match=r"classifier.6.bias exceeds float16's 65504"):
            pack(source, tmp_path / "packed.safetensors", photo_folder / "val", workers=0)
        assert not (tmp_path / "packed.safetensors").exists()

    def test_the_original_is_not_overwritten(
        self, tiny_checkpoint: Checkpoint, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = save_checkpoint(tiny_checkpoint, tmp_path / "source.safetensors")
        link = tmp_path / "link.safetensors"
        link.symlink_to(source)
        for target in (source, link):
            assert main(["pack", str(source), str(target), "--data", str(photo_folder / "val"), "--workers", "0"]) == 2
            assert capsys.readouterr().err == (
                f"error: OUTPUT {target}: is the checkpoint that it is made of; choose another name\n"
            )
        assert load_checkpoint(source).weights["classifier.6.bias"].dtype == torch.float32
