"""``python -m training`` guesses no command."""

from __future__ import annotations

import pytest

from tests.helpers.command import Command


@pytest.mark.parametrize("arguments", [["photos", "--output", "run"], ["compres"]])
def test_an_unknown_command_is_a_usage_error_that_lists_the_commands(cli: Command, arguments: list[str]) -> None:
    code, _, err = cli(*arguments)
    assert code == 2
    assert err.startswith("Usage: python -m training [OPTIONS] COMMAND")
    expected = "name one of train, evaluate, compress, pack: python -m training train"
    assert f"No such command '{arguments[0]}'; {expected} {arguments[0]} ..." in err


def test_help_lists_the_commands(cli: Command) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in ("train", "evaluate", "compress", "pack"))
