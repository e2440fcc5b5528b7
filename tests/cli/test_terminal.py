"""No control, bidirectional or invisible character of a name, label or note reaches a terminal, from any command."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from alexnet_deploy.bundle.manifest import MODEL, LayerPrecision, load_manifest, save_manifest
from alexnet_deploy.cli import GROUPS
from alexnet_deploy.cli.output.tables import add_row, print_json, print_line, table
from alexnet_deploy.cli.output.terminal import SafeConsole, note
from alexnet_deploy.onnx_graph.onnx_file import load_onnx, save_onnx, set_contract
from tests.helpers.command import Command
from tests.helpers.models.bundles import make_workplace

HOSTILE = "\x1b[2J\x9b31m\u202e\u2066\u200b\u200f\ufeff\u2028\r\n\t\x07\x7f"
"""Escape and control sequences, right-to-left override and isolate, invisible characters, line breaks, bell, delete."""
NAME = f"engine{HOSTILE}x"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Path:
    """A store of ``exact`` and of a bundle in which every text is hostile, photos with such names, a report."""
    root = make_workplace(tmp_path_factory.mktemp("hostile"), photo_folder)
    bundle = root / "engines" / NAME
    (root / "engines/ruined").rename(bundle)
    manifest = load_manifest(bundle)[0]
    labels = tuple(f"{label}{HOSTILE}" for label in manifest.contract.labels)
    layer = LayerPrecision(f"node{HOSTILE}", f"Op{HOSTILE}", "int8", f"int8{HOSTILE}", f"layer{HOSTILE}")
    hostile = replace(
        manifest,
        contract=replace(manifest.contract, labels=labels, architecture=f"net{HOSTILE}"),
        tools=dict.fromkeys((f"tool{HOSTILE}", "onnx"), f"1.0{HOSTILE}"),
        notes=(f"note{HOSTILE}",),
        achieved=dict.fromkeys(manifest.achieved, (layer,)),
    )
    model = load_onnx(bundle / MODEL)
    set_contract(model, hostile.contract)
    save_onnx(model, bundle / MODEL)
    save_manifest(hostile, bundle)
    for file in root.glob("photos/*/*/0.jpg"):
        file.rename(file.with_name(f"0{HOSTILE}.jpg"))
    (root / "broken").mkdir()
    (root / "broken" / f"no image{HOSTILE}.jpg").write_bytes(b"no image")
    (root / "onnx").mkdir()
    shutil.copy(root / "colours.onnx", root / "onnx" / f"model{HOSTILE}.onnx")
    (root / "onnx" / f"bad{HOSTILE}.onnx").write_bytes(f"no model {HOSTILE}".encode())
    return root


def safe(text: str) -> bool:
    return text.replace("\n", "").isprintable()


COMMANDS: dict[str, list[tuple[object, ...]]] = {
    "export": [("--weights", f"none{HOSTILE}.safetensors"), ("--weights", "imagenet1k", "--arch", f"x{HOSTILE}")],
    "build-engine": [
        (f"onnx/model{HOSTILE}.onnx", "--target", "sm89", "-o", f"engines/built{HOSTILE}"),
        (f"onnx/bad{HOSTILE}.onnx",),
        (f"onnx/model{HOSTILE}.onnx", "--target", f"sm{HOSTILE}"),
    ],
    "infer": [
        ("photos", "--engine", NAME),
        ("photos", "broken", "--engine", NAME, "--runtime", "onnxruntime"),
        (f"none{HOSTILE}",),
        ("photos", "--engine", f"none{HOSTILE}"),
    ],
    "features": [
        ("photos", "broken", "--engine", NAME, "-o", f"v{HOSTILE}.npz"),
        ("photos", "--engine", NAME, "-o", "v.npz", "--layer", f"none{HOSTILE}"),
    ],
    "neighbours": [
        ("photos/val", "broken", "--index", f"none{HOSTILE}.npz"),
        ("photos/val", "--index", "photos/val/n01_red/1.jpg", "--engine", NAME),
    ],
    "duplicates": [("photos", "broken", "--engine", NAME), (f"none{HOSTILE}",)],
    "serve": [(f"none{HOSTILE}",), (NAME, "--host", f"x{HOSTILE}")],
    "package": [(NAME, "--triton", "repository"), (f"none{HOSTILE}", "--triton", "repository")],
    "evaluate": [("photos/val", "--engine", NAME, "--markdown"), (f"none{HOSTILE}",)],
    "compare": [(NAME, "exact", "--data", "photos/val"), (NAME, f"none{HOSTILE}", "--data", "photos/val")],
    "preprocessing-parity": [(NAME, "--data", "photos/val"), (NAME, "--data", f"none{HOSTILE}")],
    "diagnose": [(f"onnx/model{HOSTILE}.onnx", "--data", "photos/val", "--images", 3, "--calibration-images", 3)],
    "calibration-stability": [(f"onnx/model{HOSTILE}.onnx", "--calibration-data", f"none{HOSTILE}")],
    "calibrate-confidence": [(NAME, "--data", "photos/train"), (f"none{HOSTILE}", "--data", "photos/train")],
    "profile": [(NAME, "--batch-sizes", 1, "--duration", "1ms", "--warmup", "1ms"), (f"none{HOSTILE}",)],
    "profile-layers": [(f"none{HOSTILE}",)],
    "profile-stages": [(NAME, "--data", f"none{HOSTILE}")],
    "mlperf": [(f"none{HOSTILE}", "--data", "photos/val")],
    "report": [("--data", f"none{HOSTILE}", "-o", "report.html")],
    "recommend": [(f"none{HOSTILE}", "--max-latency", "5ms")],
    "engines": [(), ("--json",), ("--store", f"none{HOSTILE}")],
    "inspect": [(NAME,), (NAME, "--json"), (f"none{HOSTILE}",)],
    "explain": [
        ("photos/val", "broken", "--engine", NAME, "--beside", "exact", "-o", f"maps{HOSTILE}", "--patch", 8),
        ("photos/val", "--engine", NAME, "-o", "maps", "--class", f"none{HOSTILE}"),
    ],
    "summary": [
        (f"none{HOSTILE}",),
        (f"none{HOSTILE}.safetensors",),
        (f"onnx/model{HOSTILE}.onnx",),
        (f"onnx/model{HOSTILE}.onnx", "--filters", f"filters{HOSTILE}.png"),
        (f"onnx/bad{HOSTILE}.onnx", "--activations", f"none{HOSTILE}.jpg", "-o", f"sheets{HOSTILE}"),
    ],
    "doctor": [(f"x{HOSTILE}",)],
}


def test_every_command_is_tried() -> None:
    assert COMMANDS.keys() == {
        command.__name__.replace("_", "-") for commands in GROUPS.values() for command in commands
    }


@pytest.mark.parametrize(
    ("name", "arguments"), [(name, arguments) for name, lines in COMMANDS.items() for arguments in lines]
)
def test_a_command_prints_hostile_text_as_escapes(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[object, ...]
) -> None:
    monkeypatch.chdir(workplace)
    ran = command(name, *arguments)
    assert safe(ran.out), ascii(ran.out)
    assert safe(ran.err), ascii(ran.err)
    assert ran.out or ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("arguments", [(f"--x{HOSTILE}",), (f"x{HOSTILE}",), ("infer", "photos", f"--x{HOSTILE}")])
def test_a_usage_error_is_one_line_of_safe_text(command: Command, arguments: tuple[str, ...]) -> None:
    ran = command(*arguments)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert safe(ran.err)
    assert r"\x1b[2J" in ran.error
    assert "--help" in ran.error


def test_json_keeps_the_text_exactly_and_is_ascii(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    ran = command("inspect", NAME, "--json")
    assert ran.out.isascii()
    assert json.loads(ran.out)["notes"] == [f"note{HOSTILE}"]


def test_the_parts_that_print_are_safe_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left on a terminal is rich's own: colours, and the codes that redraw a bar."""
    written = io.StringIO()
    console = SafeConsole(file=written, force_terminal=True, width=200)
    for place in ("terminal.err", "tables.out"):
        monkeypatch.setattr(f"alexnet_deploy.cli.output.{place}", console)
    monkeypatch.setattr(sys, "stdout", written)
    note(HOSTILE, style="red")
    print_line(HOSTILE)
    grid = table(HOSTILE, "x")
    add_row(grid, (HOSTILE, HOSTILE))
    grid.add_row(HOSTILE, "added without the function that escapes")
    console.print(grid)
    console.print(HOSTILE, "printed without it")
    with Progress(console=console, transient=True) as bars:
        bars.update(bars.add_task(HOSTILE, total=2), advance=1, refresh=True)
    print_json({HOSTILE: HOSTILE})
    text = written.getvalue()
    assert r"\x1b[2J" in text
    for character in (*"\x9b\u202e\u2066\u200b\u200f\ufeff\u2028\x07\x7f", "\x1b[2J"):
        assert character not in text


def test_no_text_is_a_command_to_rich(command: Command) -> None:
    """Neither ``:name:`` nor ``[name]``, in an error or in a table."""
    text = "no:b:x:smile: [red]y[/red] :a:1.5"
    assert text in command("infer", text).error
    written = io.StringIO()
    console = SafeConsole(file=written, width=200)
    grid = table(text, "x")
    add_row(grid, (text, text))
    console.print(grid)
    console.print(text)
    assert written.getvalue().count(text) == 4


def test_a_console_of_rich_alone_would_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    """So that the tests above show something."""
    Console(markup=False).print(HOSTILE)
    assert not safe(capsys.readouterr().out)


def test_a_bundle_of_hostile_texts_still_runs(
    command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    ran = command("infer", "photos/val", "--engine", NAME, "--format", "jsonl")
    assert ran.code == 0
    assert {answer["top"][0]["label"] for answer in map(json.loads, ran.out.split("\n")[:-1])} <= {
        f"{label}{HOSTILE}" for label in ("red", "green", "blue")
    }
