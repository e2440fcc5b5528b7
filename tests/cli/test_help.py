"""One language in all commands: how options are called, in help, errors and pages, and what the shell completes."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from types import NoneType
from typing import Annotated, Any

import pytest
import typer.main
from typer.testing import CliRunner

import alexnet_deploy
from alexnet_deploy.cli import GROUPS, app
from alexnet_deploy.cli.flags import flag_of, in_flags, with_flags
from alexnet_deploy.contract import BatchProfile
from alexnet_deploy.errors import UsageError
from tests.helpers.command import Command
from tests.helpers.repository import ROOT
from training.cli.commands import app as training

PACKAGE = Path(alexnet_deploy.__file__).parent
COMMANDS = [command for commands in GROUPS.values() for command in commands]


def test_the_groups_stand_in_the_order_of_the_pipeline_with_whole_sentences(command: Command) -> None:
    listed = command("--help").out
    headings = re.findall(r"^(\w+):$", listed, re.M)
    assert headings == ["Options", "Make", "Run", "Search", "Prove", "Measure", "Look"]
    names = re.findall(r"^  ([a-z][a-z-]+)  ", listed, re.M)
    assert names[:3] == ["export", "build-engine", "infer"]
    assert len(names) == len(app.registered_commands) == 25
    sentences = re.findall(r"^  [a-z][a-z-]+ +(.*)$", listed, re.M)
    assert all(sentence.endswith(".") for sentence in sentences), "each fits on its line"


def test_version_and_a_missing_argument(command: Command) -> None:
    assert command("--version").out.startswith("alexnet-deploy 0.")
    assert CliRunner().invoke(training, ["--version"]).output == command("--version").out
    assert command("infer").code == 2


def test_defaults_and_arguments_are_in_one_pair_of_brackets(command: Command) -> None:
    assert "[default: 2ms]" in command("package", "--help").out
    of_report = " ".join(CliRunner().invoke(training, ["report", "--help"]).output.split())
    assert "[default: 2; for a GPU one per core, 16 at most;" in of_report
    assert "{QUERY}..." in command("neighbours", "--help").out


def options_of(command: Any) -> dict[str, Any]:
    """The type of each option by its flag, of each argument by its name in capitals."""
    hints = typing.get_type_hints(command)
    del hints["return"]
    types = {}
    for name, hint in hints.items():
        known = (
            [arg for arg in typing.get_args(hint) if arg is not NoneType] if NoneType in typing.get_args(hint) else []
        )
        types[flag_of(command, name.removesuffix("_"))] = known[0] if known else hint
    return types


def test_a_flag_means_the_same_in_every_command() -> None:
    types: dict[str, set[Any]] = {}
    for command in COMMANDS:
        for flag, kind in options_of(command).items():
            types.setdefault(flag, set()).add(kind)
    differ = {flag for flag, kinds in types.items() if len(kinds) > 1}
    # Some take several engines or sources where others take one, and some more or fewer runtimes. The output of infer
    # may be an address.
    assert differ <= {"--data", "--engine", "ENGINE", "BUNDLE", "--runtime", "--images", "--output"}
    assert {"--engines", "--kind", "--latency-bound-ms", "--duration-s"}.isdisjoint(types)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_option_has_a_help_text_that_is_a_sentence(command: Any) -> None:
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        for info in getattr(hint, "__metadata__", ()):
            assert info.help.partition("  [")[0].endswith("."), name


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("profile-", {"profile-layers", "profile-stages"}),
        ("infer photos --runtime open", {"openvino"}),
        ("infer photos --engine alexnet-i", {"alexnet-int8"}),
        ("profile alexnet-fp16 alexnet-", {"alexnet-fp16", "alexnet-int8"}),
        ("inspect --store empty a", set()),
        ("build-engine --calibration-method m", {"max", "mse"}),
    ],
)
def test_the_shell_completes(here: Path, words: str, offered: set[str]) -> None:
    line = ["alexnet-deploy", *words.split()]
    environment = os.environ | {
        "_ALEXNET_DEPLOY_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(line),
        "COMP_CWORD": str(len(line) - 1),
    }
    program = "import sys; sys.argv[0] = 'alexnet-deploy'; from alexnet_deploy.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


PROGRAMS = {
    f"{program} ": {
        name: {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)} | {"--help"}
        for name, command in typer.main.get_command(commands).commands.items()  # type: ignore[attr-defined]
    }
    for program, commands in (("alexnet-deploy", app), ("python -m training", training))
}
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *ROOT.glob("*/*.md"),
    *ROOT.glob("docs/*/*.md"),
    *PACKAGE.rglob("*.j2"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_a_page_exist_with_their_flags(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    typed = r"(?<![\w./-])(alexnet-deploy |python -m training |`)([a-z][a-z-]+)\b([^`\n<]*)"
    wrong = []
    for program, name, words in re.findall(typed, text):
        # In backticks alone it is a command of the program that the page is about, or a word.
        about = "python -m training " if page.stem == "training" else "alexnet-deploy "
        known = PROGRAMS[about if program == "`" else program]
        if name in known:
            flags = re.findall(r"--[a-z][\w-]*", words)
            wrong += [f"{name} {flag}" for flag in flags if flag not in known[name]]
        elif program != "`":
            wrong.append(program + name)
    assert wrong == []


@pytest.mark.parametrize(("program", "commands"), [("alexnet-deploy", app), ("python -m training", training)])
def test_help_names_values_as_a_person_does(program: str, commands: Any) -> None:
    shown = {name: CliRunner().invoke(commands, [name, "--help"]).output for name in PROGRAMS[f"{program} "]}
    odd = {name: re.findall(r"<[^<>|]*>|<list.*?>", text) for name, text in shown.items()}
    assert {name: found for name, found in odd.items() if found} == {}
    for name, lines in (
        ("infer", ["  IMAGES...  Image", "  --top-k N  ", "  --store PATH  "]),
        ("profile", ["  ENGINE...  Bundle"]),
        ("report", ["  --without PART  "]),
        ("build-engine", ["  --target TARGET  ", "  ONNX  Classifier"]),
        ("export", ["  --arch <alexnet|alexnet-2012|alexnet-review|alexnet-review-code>\n"]),
        ("train", ["  --seed N  ", "  DATA  "]),
    ):
        if (name == "train") == (program == "python -m training"):  # both have a report
            assert [line for line in lines if line not in shown[name]] == []


def test_an_error_of_the_library_names_parameters() -> None:
    with pytest.raises(UsageError, match=r"^`opt_batch` 64 exceeds `max_batch` 32; raise `max_batch`$"):
        BatchProfile(1, 64, 32)


def test_an_error_of_a_command_names_its_flags() -> None:
    def command(
        images: Annotated[str, typer.Argument()],
        onnx_path: Annotated[str, typer.Argument(metavar="ONNX")] = "",
        max_batch: Annotated[int, typer.Option("--largest", "-l")] = 1,
        stop_: Annotated[bool, typer.Option("--stop/--go")] = False,
        top_k: Annotated[int, typer.Option()] = 5,
    ) -> None:
        raise UsageError("`images`, `onnx_path`, `max_batch`, `stop`, `top_k`, `other_one` and `not one`")

    with pytest.raises(UsageError, match=r"^IMAGES, ONNX, --largest, --stop, --top-k, other_one and `not one`$"):
        with_flags(command)("photos/")


OF_OTHERS = {"--query-gpu", "--format", "--backend-config"}
"""Flags of other programs: nvidia-smi, tritonserver."""


def test_no_text_of_the_library_holds_a_flag() -> None:
    """A Python caller never reads a flag: in strings, docstrings included, outside the command line."""
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {flag[0]}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ("cli", "doctor.py")  # a fix of doctor's is a command to type
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for flag in re.finditer(r"(?<![\w-])--[a-z][a-z-]+", node.value)
        if flag[0] not in OF_OTHERS
    ]
    assert found == []


def test_a_reason_that_is_only_printed_names_flags_too() -> None:
    assert (
        in_flags("OpenVINO refuses it; try `runtime` onnxruntime") == "OpenVINO refuses it; try --runtime onnxruntime"
    )
