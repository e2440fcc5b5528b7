"""Values with a unit and lists of numbers: what is taken, and what the error lists."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from alexnet_deploy.cli.quantities import Bytes, Milliseconds, Numbers, Rgb, Seconds, Size


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Seconds, "3s", 3.0),
        (Seconds, "200ms", 0.2),
        (Seconds, ".3ms", 0.0003),
        (Seconds, "0s", 0.0),
        (Seconds, "10min", 600.0),
        (Milliseconds, "5ms", 5.0),
        (Milliseconds, "0.005s", 5.0),
        (Milliseconds, "800us", 0.8),
        (Milliseconds, " 1.5 µs ", 0.0015),
        (Milliseconds, "1.5μs", 0.0015),
        (Bytes, "10MiB", 10 * 2**20),
        (Bytes, "500kB", 500e3),
        (Bytes, "7B", 7),
        (Numbers, "4,1,4", (4, 1)),
        (Rgb, "0.485,0.456,0.406", (0.485, 0.456, 0.406)),
        (Rgb, "0.5", (0.5,)),
        (Size, "224", (224, 224)),
        (Size, "224x320", (224, 320)),
    ],
)
def test_what_is_taken(kind: Any, text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    "text", ["", "3", "fast", "-1s", "nan", "1e9s", "5 m s", "3MiB", "inf s", "٣s", f"{'9' * 400}s"]
)
@pytest.mark.parametrize("kind", [Seconds, Milliseconds])
def test_a_time_needs_its_unit(kind: Any, text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a time with its unit, such as 3s, 200ms or 800us"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("kind", "text", "such_as"),
    [
        (Bytes, "10", "10MiB, 500kB or 1GB"),
        (Bytes, "10m", "10MiB, 500kB or 1GB"),
        (Numbers, "", "1,8,32"),
        (Numbers, "1,", "1,8,32"),
        (Numbers, "1,x", "1,8,32"),
        (Rgb, "1,2", "0.485,0.456,0.406"),
        (Rgb, "a,b,c", "0.485,0.456,0.406"),
        (Size, "224x", r"224 or 224x320 \(height x width\)"),
    ],
)
def test_an_error_shows_what_is_taken(kind: Any, text: str, such_as: str) -> None:
    with pytest.raises(typer.BadParameter, match=rf"^'{text}' is not .*, such as {such_as}$"):
        kind.parse(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(Seconds(3), "3s"), (Seconds(0.2), "200ms"), (Milliseconds(15), "15ms"), (Numbers((1, 8)), "1,8")],
)
def test_a_default_prints_as_it_is_typed(value: Any, text: str) -> None:
    assert str(value) == text
    assert type(value).parse(value if isinstance(value, tuple) else text) == value
