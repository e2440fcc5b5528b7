"""``train``, by its command line and from Python: what its options mean, and that what is wrong is one line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from alexnet_deploy.contract import ArchitectureName, Preprocessing
from alexnet_deploy.errors import UsageError
from alexnet_deploy.files.lock import only_writer
from alexnet_deploy.json_format import MAX_USERS_BYTES
from alexnet_deploy.model.architecture import FAMILY, AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.command import Command, RunResult
from tests.helpers.photos import CLASSES, save_photo
from tests.helpers.repository import ROOT
from training.data.preflight import PreflightReport
from training.loop.run import EpochMetrics, Run
from training.plan import TrainSettings
from training.recipes.named import get_recipe
from training.recipes.small_data import fit_to_data
from training.report.images import DataSettings, read_data_settings
from training.train import train as train_in_python


@pytest.fixture
def train(cli: Command, photo_folder: Path, tmp_path: Path) -> Command:
    return lambda *flags: cli("train", photo_folder, "--output", tmp_path / "run", *flags)


class TestOptions:
    def test_the_papers_switches_change_the_architecture(self, train: Command, planned: list[Run]) -> None:
        flags = ("--activation", "tanh", "--lrn", "after-pool", "--pool", "plain", "--groups", "1,2,1,2,4")
        assert train(*flags).code == 0
        assert planned[0].arch == dataclasses.replace(
            get_architecture("alexnet", num_classes=3),
            activation="tanh", lrn="after-pool", overlapping_pool=False, groups=(1, 2, 1, 2, 4),
        )  # fmt: skip
        AlexNet(planned[0].arch)

    def test_without_them_it_is_the_familys_own(self, train: Command, planned: list[Run]) -> None:
        for flags in ((), ("--lrn", "none")):
            assert train("--arch", "alexnet-2012", *flags).code == 0
        own = get_architecture("alexnet-2012", num_classes=3)
        assert [run.arch for run in planned] == [own, dataclasses.replace(own, lrn="none")]

    def test_all_of_the_family_can_be_named(self) -> None:
        assert get_args(ArchitectureName) == tuple(FAMILY)

    def test_the_paper_has_raw_pixels_in_its_contract(self, train: Command, planned: list[Run]) -> None:
        assert train("--recipe", "paper", "--resize", "stretch").code == 0
        assert planned[0].preprocessing == Preprocessing(resize="stretch", resize_to=None, std=(1 / 255,) * 3)

    def test_recipe_names_and_times(self, train: Command, planned: list[Run], tmp_path: Path) -> None:
        (tmp_path / "names.json").write_text(json.dumps(dict(zip(CLASSES, "rgb", strict=True))))
        more = ("--set", "augment=none", "--set", "clip_norm=null", "--save-every", "1.5m")
        assert train("--class-names", tmp_path / "names.json", "--epochs", "3", "--lr", "0.5", *more).code == 0
        run = planned[0]
        recipe = dataclasses.replace(get_recipe("modern", epochs=3, lr=0.5, augment="none"), clip_norm=None)
        recipe = fit_to_data(recipe, 18, {"lr"})
        assert (run.recipe, run.labels, run.save_every_s) == (recipe, ("r", "g", "b"), 90.0)


@pytest.mark.usefixtures("planned")
class TestRefused:
    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            ("--lr 0", 2, "--lr 0.0: must be a number from 1e-08 to 100"),
            ("--epochs 0", 2, "--epochs 0: must be a whole number from 1 to 10000"),
            ("--dropout 1", 2, "--dropout 1.0: must be a probability"),
            ("--dense-rank 4096", 2, "--dense-rank 4096: must be within 1..4095"),
            ("--groups 2", 2, "--groups 2: must be five whole numbers, one per convolution, such as 1,2,1,2,2"),
            ("--groups 1,2,1,0,2", 2, "--groups 1,2,1,0,2: must be five whole numbers"),
            ("--groups 2,1,1,1,1", 2, "2 does not divide the 3 channels into convolution 1 of alexnet"),
            ("--groups 1,1,1,1,3", 2, "3 does not divide the 256 channels into convolution 5 of alexnet"),
            ("--set flip=yes", 2, "--set flip=yes: flip must be true or false; modern has true"),
            ("--val nowhere", 1, "nowhere: no such folder"),
            ("--val-share nan", 2, "/val is for validation; leave --val-share out"),
            ("--class-names nowhere.json", 1, "nowhere.json: is not a readable JSON object"),
            ("--output /sys/run", 1, "--output /sys/run: cannot be made"),
            ("--output /dev/null", 1, "--output /dev/null: cannot be made"),
        ],
    )
    def test_a_flag_that_cannot_be(self, train: Command, tmp_path: Path, flags: str, code: int, message: str) -> None:
        result = train(*flags.split())
        assert result.code == code
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
        assert message in result.err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("flag", "value", "choices"),
        [
            ("--seed", "-1", ""),
            ("--seed", str(2**63), ""),
            ("--workers", "-1", ""),
            ("--workers", "257", "256"),
            ("--lr", "fast", ""),
            ("--arch", "lenet", "alexnet alexnet-2012 alexnet-review alexnet-review-code"),
            ("--recipe", "quick", "torchvision modern paper finetune"),
            ("--activation", "gelu", "relu tanh"),
            ("--lrn", "yes", "none before-pool after-pool"),
            ("--pool", "mean", "overlapping plain"),
            ("--resize", "crop", "shorter-side stretch"),
            ("--precision", "int8", "bf16 fp16 fp32"),
            ("--groups", "1,2,one,2,2", "1,2,1,2,2"),
            ("--save-every", "10", "3s"),
        ],
    )
    def test_a_value_that_the_parser_refuses_with_what_it_takes(
        self, train: Command, flag: str, value: str, choices: str
    ) -> None:
        code, _, err = train(flag, value)
        assert code == 2
        _, _, message = err.partition(f"Invalid value for '{flag}': ")
        assert all(choice in message for choice in (*choices.split(), "\n"))

    def test_folders_and_files_that_do_not_fit(
        self, cli: Command, train: Command, photo_folder: Path, tmp_path: Path
    ) -> None:
        missing = tmp_path / "[/x] [bold]" / ("long " * 20)
        result = cli("train", missing, "--output", tmp_path / "run")
        assert result.code == 1
        assert result.err.startswith(f"error: {missing}: no such folder")
        assert result.err.count("\n") == 1
        result = cli("train", photo_folder / "train", "--output", tmp_path / "run", "--val-labels", "val.txt")
        assert result == (2, "", "error: --val-labels val.txt: needs a validation folder; add --val\n")
        save_photo(tmp_path / "val" / "zebra" / "0.jpg", (0, 0, 0), 0)
        assert "class 'zebra' is not in the training data" in train("--val", tmp_path / "val").err
        names = tmp_path / "names.json"
        names.write_text(json.dumps({"n01_red": "red"}))
        assert train("--class-names", names) == (1, "", f"error: {names}: has no name for class 'n02_green'; add it\n")
        for odd in ("two\nlines", "", " "):
            names.write_text(json.dumps(dict.fromkeys(CLASSES, "a colour") | {"n02_green": odd}))
            found = train("--class-names", names).err
            said = "the name of class 'n02_green' is empty or cannot be printed; write it in one line"
            assert found == f"error: {names}: {said}\n"
        for content in (b"[" * 100_000, b" " * (MAX_USERS_BYTES + 1)):
            names.write_bytes(content)
            assert train("--class-names", names).err.startswith(f"error: {names}: is not a readable JSON object (")


def test_what_cannot_begin_is_refused_before_the_data_is_read(cli: Command, photo_folder: Path, tmp_path: Path) -> None:
    """Resuming with another --val-share would train on images that were held out before."""
    photos = Path(shutil.copytree(photo_folder / "train", tmp_path / "photos"))
    (photos / "n01_red" / "0.jpg").write_bytes(b"")  # what the preflight would report, in a table
    small = ("--dense-rank", "4", "--epochs", "1", "--batch", "12", "--workers", "0", "--allow-unreadable")
    fast = ("--set", "augment=none", "--set", "sides=[[0, 64]]", "--val-share", "0.2")
    # Else the recipe of so few images depends on how many can be read.
    fast += ("--set", "repeats=30", "--set", "warmup_epochs=0.25")

    def train(*more: str) -> RunResult:
        return cli("train", photos, "--output", tmp_path / "run", *small, *fast, *more)

    def refused(*more: str) -> str:
        code, _, err = train(*more)
        assert (code, err.count("\n")) == (1, 1)
        return err

    exceeds = "error: --batch 19: exceeds the 14 training images; lower it, or leave it out"
    assert train("--batch", "19").error == exceeds
    assert "holds no run to resume; leave --resume out to start one" in refused("--resume")
    assert train().code == 0
    assert train("--resume").code == 0
    assert "already holds a run; add --resume" in refused()
    other_rate = refused("--resume", "--lr", "1e-3")
    assert "this run had --lr 0.0005, now it is 0.001; use the same settings" in other_rate
    longer = refused("--resume", "--epochs", "4")
    assert "this run had --epochs 1, now it is 4" in longer
    assert longer.endswith(f"; to train longer: --start {tmp_path / 'run'} and another --output\n")
    left = [tmp_path / "run" / name for name in ("data.json", "preflight.txt")]
    before = [path.read_bytes() for path in left]
    (photos / "n02_green" / "0.jpg").write_bytes(b"")
    assert "this run had other data; " in train("--resume", "--val-share", "0.4").err
    assert [path.read_bytes() for path in left] == before
    (tmp_path / "other").mkdir()
    with only_writer(tmp_path / "other", "output"):
        result = cli("train", photos, "--output", tmp_path / "other", *small, *fast)
    assert "another process writes it; wait for it to end" in result.error
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("arguments", [["photos", "--output", "run"], ["compres"]])
def test_an_unknown_command_is_a_usage_error_that_lists_the_commands(cli: Command, arguments: list[str]) -> None:
    code, _, err = cli(*arguments)
    assert code == 2
    expected = "name one of train, evaluate, compress, pack, report, such as python -m training train"
    assert err.startswith(f"error: No such command '{arguments[0]}'; {expected} {arguments[0]}; ")
    assert err.count("\n") == 1


def test_help_lists_the_commands(cli: Command) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in ("train", "evaluate", "compress", "pack", "report"))
    assert "..." not in out.partition("Commands:")[2], "each first sentence is whole"


def without(packages: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m training`` where none of these packages can be imported."""
    program = (
        f"import runpy, sys; sys.modules |= dict.fromkeys({packages}); runpy.run_module('training', None, '__main__')"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("torch", ("train", "photos", "--output", "run")),
        ("matplotlib", ("train", "photos", "--output", "run")),
        ("torch", ("train", "photos", "--output", "run", "--workers", "0", "--precision", "fp32")),
        ("torch", ("evaluate", "c.safetensors", "photos")),
        ("torch", ("compress", "c.safetensors", "photos", "--rank", "4")),
        ("torch", ("pack", "c.safetensors")),
        ("torch", ("pack", "c.safetensors", "--workers", "0")),
        ("torch", ("report", "run", "--workers", "0")),
    ],
)
def test_without_its_extra_the_next_step_is_told(missing: str, arguments: tuple[str, ...]) -> None:
    ran = without([missing], *arguments)
    assert ran.returncode == 1
    needed = rf"error: this command needs {missing}\S*; pip install 'alexnet-deploy\[train\]'\n"
    assert re.fullmatch(needed, ran.stderr)


@pytest.mark.parametrize(("arguments", "code"), [(("--help",), 0), (("train", "--help"), 0), (("train", "photos"), 2)])
def test_help_and_usage_errors_need_no_heavy_library(arguments: tuple[str, ...], code: int) -> None:
    """Loading them took seven seconds of a processor before the first line."""
    ran = without(["torch", "torchvision", "onnx", "scipy", "matplotlib"], *arguments)
    assert (ran.returncode, "Traceback" in ran.stderr) == (code, False)


@pytest.mark.usefixtures("no_curves")
def test_a_folder_becomes_a_checkpoint(photo_folder: Path, tmp_path: Path) -> None:
    fast = ["augment=none", "sides=[[0, 64]]"]
    settings = TrainSettings(
        dense_rank=4, epochs=1, batch=9, lr=0.0005, workers=0, overrides=fast, save_every_s=0, skip_report=True
    )
    reports: list[PreflightReport] = []
    epochs: list[tuple[EpochMetrics, int]] = []
    stages: list[tuple[str, int, int]] = []
    checkpoint = train_in_python(
        photo_folder, tmp_path / "run", settings,
        on_preflight=reports.append, on_epoch=lambda *epoch: epochs.append(epoch),
        on_progress=lambda *step: stages.append(step),
    )  # fmt: skip
    assert checkpoint == tmp_path / "run" / "checkpoint.safetensors"
    assert load_checkpoint(checkpoint).arch.dense_rank == 4
    assert [report.findings for report in reports] == [()]
    assert [(row.epoch, total) for row, total in epochs] == [(1, 1)]
    assert stages == [("preflight", 24, 24), *(("training", step, 20) for step in range(1, 21))]
    assert read_data_settings(tmp_path / "run") == DataSettings(photo_folder, seed=0)


def test_its_errors_name_parameters(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^`allow_leak`: has no effect with `skip_preflight`; leave"):
        train_in_python(photo_folder, tmp_path / "run", TrainSettings(allow_leak=True, skip_preflight=True))
    with pytest.raises(UsageError, match=r"^`overrides` speed=9: has no field 'speed'"):
        train_in_python(photo_folder, tmp_path / "run", TrainSettings(overrides=["speed=9"]))
    assert not (tmp_path / "run").exists()
