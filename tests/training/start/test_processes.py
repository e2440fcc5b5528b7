"""Fine-tuning in several processes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from alexnet_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from tests.training.processes import TrainingProcess
from tests.training.start.files import small_checkpoint
from training.cli.train import train_command


def written(output: Path) -> Path:
    """The checkpoint of a run, also where six steps have not left chance."""
    return next(output.glob("checkpoint*.safetensors"))


@pytest.mark.slow
def test_layers_that_are_unfrozen_learn_from_the_pictures_of_all_processes(photo_folder: Path, tmp_path: Path) -> None:
    """DistributedDataParallel sums the gradients of what learned when it was made, so it has to be made again."""
    start = save_checkpoint(small_checkpoint("a", "b", "c"), tmp_path / "start.safetensors")
    flags = "--freeze all-but-head --unfreeze-every 1 --epochs 2 --batch 6 --dropout 0 --precision fp32 --workers 0"
    flags += " --lr 1e-2 --set optimizer=sgd --set sides=[[0,64]] --set repeats=1 --skip-preflight --skip-report"

    def arguments(name: str) -> list[str]:
        return ["train", str(photo_folder), "--output", str(tmp_path / name), "--start", str(start), *flags.split()]

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    together = [
        TrainingProcess(
            *arguments("two"), RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port
        )
        for rank in "01"
    ]
    alone = TrainingProcess(*arguments("one"))
    errors = [process.finish()[1] for process in (*together, alone)]
    before = load_checkpoint(start).weights
    one, two = (load_checkpoint(written(tmp_path / name)).weights for name in ("one", "two"))
    assert (one["classifier.4.weight"] != before["classifier.4.weight"]).any(), errors
    for key in ("classifier.4.weight", "classifier.6.weight"):
        # float32 sums in another order; the half of the pictures alone moves the weights by other amounts altogether
        moved = (one[key] - before[key]).abs().max().item()
        assert (one[key] - two[key]).abs().max().item() < 1e-3 * moved, key


def test_torchrun_takes_start_for_its_own_unless_two_dashes_end_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/training.md shows the dashes."""
    mine = ["training", "train", "DATA", "--start", "shipped", "--output", "runs/mine"]
    parsed = parse_args(["--nproc-per-node", "2", "-m", "--", *mine])
    assert [parsed.training_script, *parsed.training_script_args] == mine
    with pytest.raises(SystemExit):
        parse_args(["--nproc-per-node", "2", "-m", *mine])
    assert "ambiguous option: --start" in capsys.readouterr().err
    for name in train_command.__annotations__:
        if name not in ("data", "start", "return"):
            flag = f"--{name.replace('_', '-')}"
            assert flag in parse_args(["-m", "training", "train", "DATA", flag, "x"]).training_script_args
