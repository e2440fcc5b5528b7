"""A hostile state file is one line, and a run never goes on from a state that is not its own."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from alexnet_deploy.errors import ArtifactError, DeployError, InputError
from tests.helpers.models import tiny_runs as tiny
from training.loop.device import pick_device
from training.loop.fit import Interrupted
from training.loop.run import Run
from training.loop.state import check_run_folder, load_state
from training.loop.step import Trainer
from training.recipes.named import get_recipe
from training.run_files import STATE_FILE

KEY = "alexnet_deploy.training"
pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def stopped_once(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stopped at step 4 of two epochs of 3."""
    run = tiny.run_of(photo_folder, tmp_path_factory.mktemp("stopped") / "run", epochs=2, batch=6)
    with pytest.raises(Interrupted):
        tiny.rows_of(run, on_progress=tiny.interrupt_at(4))
    return dataclasses.replace(run, resume=True)


@pytest.fixture
def stopped(stopped_once: Run, tmp_path: Path) -> Run:
    (tmp_path / "run").mkdir()
    shutil.copy(stopped_once.output / STATE_FILE, tmp_path / "run")
    return dataclasses.replace(stopped_once, output=tmp_path / "run")


def parts(run: Run) -> tuple[dict[str, Any], dict[str, Tensor]]:
    path = run.output / STATE_FILE
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[KEY]), load_file(path)


def write(run: Run, state: object, tensors: dict[str, Tensor]) -> None:
    text = state if isinstance(state, str) else json.dumps(state)
    save_file(tensors, run.output / STATE_FILE, {KEY: text})


def resume(run: Run) -> None:
    trainer = Trainer(run, pick_device(0), 0)
    load_state(run.output / STATE_FILE, run.config() | {"colours": None}, trainer)


def test_an_untouched_state_is_resumed(stopped: Run) -> None:
    write(stopped, *parts(stopped))
    resume(stopped)
    check_run_folder(stopped)
    assert len(tiny.rows_of(stopped)) == 1


def test_a_state_from_before_fields_were_added_is_resumed(stopped: Run) -> None:
    state, tensors = parts(stopped)
    for name in ("repeats", "balance"):
        del state["config"]["recipe"][name]
    for name in ("channels", "crop_offset"):
        del state["config"]["preprocessing"][name]
    del state["rows"][0]["val_class_mean_percent"]
    write(stopped, state, tensors)
    resume(stopped)
    check_run_folder(stopped)
    assert len(tiny.rows_of(stopped)) == 1
    balanced = tiny.changed(stopped, recipe={"balance": "loss"})
    with pytest.raises(InputError, match="this run had `balance` none, now it is loss"):
        check_run_folder(balanced)


def test_a_state_from_before_labels_counted_is_resumed(stopped: Run) -> None:
    """One with a list of labels for its validation images; with other labels it is another run."""
    stopped = tiny.changed(stopped, val={"classes_from": "labels"})
    state, tensors = parts(stopped)
    assert state["config"]["data"] == stopped.former_data()
    resume(stopped)
    check_run_folder(stopped)
    write(stopped, state | {"config": state["config"] | {"data": stopped.config()["data"]}}, tensors)
    check_run_folder(stopped)
    with pytest.raises(InputError, match="this run had other data"):
        check_run_folder(tiny.changed(stopped, val={"targets": stopped.val.targets[::-1]}))


def test_a_run_keeps_its_rule_of_decoding(stopped: Run) -> None:
    """One from before there was a rule decoded in full, as one with a cache does."""
    state, tensors = parts(stopped)
    assert state["config"].pop("decoding") == "reduced-2x"
    write(stopped, state, tensors)
    with pytest.raises(InputError, match="this run had `full_decode` full, now it is reduced-2x; use the same"):
        check_run_folder(stopped)
    check_run_folder(dataclasses.replace(stopped, full_decode=True))
    check_run_folder(dataclasses.replace(stopped, cache=True))


def in_state(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda state: state | fields


def in_row(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda state: state | {"rows": [state["rows"][0] | fields]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (in_state(step=-1), "step -1 is not within 0..6"),
        (in_state(step=7), "step 7 is not within 0..6"),
        (in_state(step=2**70), "is not a readable training state"),
        (in_state(step=1.5), "Expected 'int', got 'float'"),
        (in_state(step=2), "it records 1 epochs at step 2 of 3 per epoch"),
        (in_state(rows=[]), "it records 0 epochs at step 4 of 3 per epoch"),
        (in_row(epoch=7), "it records 1 epochs at step 4"),
        (in_row(val_top1_percent=101.0), "it records an accuracy outside 0..100"),
        (in_row(train_loss="x"), "Expected 'float', got 'str'"),
        (in_state(rows=5), "Expected 'array', got 'int'"),
        (lambda state: {}, "missing required field 'step'"),
        (lambda state: '{"step": 4, "config": {"a": ' + "[" * 100_000, "maximum recursion depth"),
        (lambda state: "{", "is not a readable training state"),
        (lambda state: json.dumps(state)[:-10] + "NaN", "is not a readable training state"),
    ],
)
def test_progress_that_no_run_can_have_is_refused_before_any_work(
    stopped: Run, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    state, tensors = parts(stopped)
    write(stopped, change(state), tensors)
    for attempt in (check_run_folder, resume):
        with pytest.raises(ArtifactError) as caught:
            attempt(stopped)
        assert str(caught.value).startswith(f"{stopped.output / STATE_FILE}: is not a readable training state (")
        assert says in str(caught.value)
        assert str(caught.value).endswith("; start a new run")


def test_a_loss_scale_of_another_precision_is_refused(stopped: Run) -> None:
    state, tensors = parts(stopped)
    write(stopped, state | {"scaler": {"scale": 65536.0}}, tensors)
    with pytest.raises(ArtifactError, match="its loss scale is that of another precision"):
        resume(stopped)


BIAS, MOMENT = "model.classifier.6.bias", "optimizer.0.exp_avg_sq"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(
            ({key: None}, f"{key} is missing")
            for key in (BIAS, "ema.module.classifier.6.bias", MOMENT, "ema.n_averaged")
        ),
        ({BIAS: None, "model.classifier.7.bias": torch.zeros(3)}, f"{BIAS} is missing"),
        ({"optimizer.99.exp_avg": torch.zeros(3)}, "optimizer.99.exp_avg is no part of such a run"),
        ({"optimizer.x.y": torch.zeros(3)}, "optimizer.x.y is no part of such a run"),
        ({"surprise": torch.zeros(3)}, "surprise is no part of such a run"),
        ({BIAS: torch.zeros(4)}, f"{BIAS} is float32 [4], expected float32 [3]"),
        ({BIAS: torch.zeros(3, dtype=torch.float64)}, f"{BIAS} is float64 [3], expected float32 [3]"),
        ({BIAS: torch.zeros(3).to(torch.float8_e4m3fn)}, f"{BIAS} is float8_e4m3fn [3], expected float32 [3]"),
        ({BIAS: torch.full((3,), float("nan"))}, f"{BIAS} holds NaN or infinity"),
        ({"optimizer.0.step": torch.tensor(9.0)}, "optimizer.0.step is 9 at step 4"),
        ({"optimizer.0.step": torch.tensor(3.0)}, "optimizer.0.step is 3 at step 4"),
        ({"ema.n_averaged": torch.tensor(-4)}, "ema.n_averaged is -4 at step 4"),
        ({MOMENT: "negative"}, f"{MOMENT} holds negative squares"),
    ],
)
def test_tensors_of_another_run_are_refused(stopped: Run, change: dict[str, Any], says: str) -> None:
    state, tensors = parts(stopped)
    for key, value in change.items():
        old = tensors.pop(key, None)
        if value is not None:
            tensors[key] = -torch.ones_like(old) if isinstance(value, str) and old is not None else value
    write(stopped, state, tensors)
    with pytest.raises(ArtifactError) as caught:
        resume(stopped)
    assert says in str(caught.value)


@pytest.mark.parametrize("recipe", ["torchvision", "modern"])
def test_a_state_without_its_optimizer_is_refused(photo_folder: Path, tmp_path: Path, recipe: Any) -> None:
    """Momentum from nothing would change the run in silence."""
    run = tiny.run_of(photo_folder, tmp_path / "run", epochs=1, batch=6)
    changes = get_recipe(recipe, epochs=1, batch=6, lr=1e-4, sides=tiny.SMALL_PICTURES, augment="none", mix="none")
    run = dataclasses.replace(run, recipe=changes)
    with pytest.raises(Interrupted):
        tiny.rows_of(run, on_progress=tiny.interrupt_at(2))
    run = dataclasses.replace(run, resume=True)
    state, tensors = parts(run)
    resume(run)
    write(run, state, {key: value for key, value in tensors.items() if not key.startswith("optimizer.")})
    with pytest.raises(ArtifactError, match=r"optimizer\.0\.\w+ is missing"):
        resume(run)


def test_a_fifo_in_its_place_is_not_waited_for(stopped: Run) -> None:
    (stopped.output / STATE_FILE).unlink()
    os.mkfifo(stopped.output / STATE_FILE)
    with pytest.raises(ArtifactError, match="it is a FIFO, not a plain file"):
        check_run_folder(stopped)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data())
def test_any_damage_to_the_header_is_one_line_or_leaves_the_step(stopped: Run, data: st.DataObject) -> None:
    path = stopped.output / STATE_FILE
    whole = path.read_bytes()
    content = bytearray(whole)
    end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        resume(stopped)
    except DeployError as exc:
        assert str(exc).isprintable()
    else:
        assert parts(stopped)[0]["step"] == 4
    finally:
        path.write_bytes(whole)
