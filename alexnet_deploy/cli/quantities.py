"""Values with a unit, and lists of numbers, as they are typed: ``5ms``, ``10MiB``, ``1,8,32``.

Each class is its own parser for ``typer.Option(parser=...)``. Other text is a usage error that names the valid form.
A value prints as it is typed, so ``--help`` shows a default in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import ClassVar, Literal, Self

import typer

_MICRO, _MILLI = Fraction(1, 10**6), Fraction(1, 1000)  # exact: 0.3ms is the float 0.0003


class _Quantity(float):
    """A number of 0 or more, typed with one of ``units``; ``scale`` converts to the unit of the class."""

    units: ClassVar[Mapping[str, Fraction | int]]
    scale: ClassVar[int] = 1
    what: ClassVar[str]

    @classmethod
    def parse(cls, text: str | float) -> float:
        """The quantity in ``text``; a number is a default, in the unit of the class."""
        if isinstance(text, float):
            return float(text)
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d*)?|\.\d+)\s*([A-Za-zµμ]+)\s*", text, re.ASCII)
        if match is None or match[2] not in cls.units:
            raise typer.BadParameter(f"{text!r} is not {cls.what}")
        return float(Fraction(match[1]) * cls.units[match[2]] * cls.scale)


class Seconds(_Quantity):
    """A time in seconds; typed ``3s``, ``200ms`` or ``800us``."""

    units: ClassVar = {  # with the micro sign, and with Greek mu
        **dict.fromkeys(("us", "µs", "μs"), _MICRO),
        "ms": _MILLI,
        "s": 1,
        **dict.fromkeys(("m", "min"), 60),
        "h": 3600,
    }
    what = "a time with its unit, such as 3s, 200ms or 800us"

    def __str__(self) -> str:
        seconds = float(self) / self.scale
        return f"{seconds:g}s" if seconds >= 1 else f"{1000 * seconds:g}ms"


class Milliseconds(Seconds):
    """A time in milliseconds; typed as ``Seconds``."""

    scale = 1000


class Bytes(_Quantity):
    """A size in bytes; typed ``10MiB``, ``500kB`` or ``1GB``."""

    units: ClassVar = {
        "B": 1,
        "kB": 10**3,
        "KB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
    }
    what = "a size with its unit, such as 10MiB, 500kB or 1GB"


class Share(float):
    """A part of a whole, within 0..1; typed ``5%`` or ``0.05``."""

    @classmethod
    def parse(cls, text: str | float) -> float:
        """The share in ``text``, or a default."""
        if isinstance(text, float):
            return float(text)
        match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d*)?|\.\d+)\s*(%?)\s*", text, re.ASCII)
        value = None if match is None else Fraction(match[1]) / (100 if match[2] else 1)
        if value is None or value > 1:
            raise typer.BadParameter(f"{text!r} is not a share, such as 5% or 0.05")
        return float(value)


class Numbers(tuple[int, ...]):
    """Whole numbers, each once, in their order; typed ``1,8,32``."""

    @classmethod
    def parse(cls, text: str | tuple[int, ...]) -> Self:
        """The numbers of ``text``, or of a default."""
        try:
            return cls(dict.fromkeys(map(int, text.split(",")) if isinstance(text, str) else text))
        except ValueError as exc:
            raise typer.BadParameter(f"{text!r} is not a list of whole numbers with commas, such as 1,8,32") from exc

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Devices(tuple[int, ...]):
    """Numbers of GPUs, or ``all``, which has none yet; typed ``0``, ``0,1`` or ``all``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The numbers of ``text``."""
        if text.strip() == "all":
            return cls()
        if re.fullmatch(r"\s*\d{1,4}\s*(?:,\s*\d{1,4}\s*)*", text, re.ASCII) is None:
            raise typer.BadParameter(
                f"{text!r} is not a number of a GPU, several with commas, or all, such as 0 or 0,1"
            )
        return cls(map(int, text.split(",")))

    @property
    def wanted(self) -> tuple[int, ...] | Literal["all"]:
        """As the library takes it."""
        return tuple(self) or "all"

    def __str__(self) -> str:
        return ",".join(map(str, self)) or "all"


class BatchSizes(tuple[int, int, int]):
    """Smallest, tuned and largest batch of a profile; typed ``1,8,32``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The three sizes of ``text``."""
        if re.fullmatch(r"\s*\d{1,6}\s*,\s*\d{1,6}\s*,\s*\d{1,6}\s*", text, re.ASCII) is None:
            raise typer.BadParameter(f"{text!r} is not a smallest, tuned and largest batch, such as 1,8,32")
        return cls(map(int, text.split(",")))


class Rgb(tuple[float, ...]):
    """One number, or one for red, green and blue; typed ``0.5`` or ``0.485,0.456,0.406``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The numbers of ``text``."""
        try:
            numbers = cls(map(float, text.split(",")))
        except ValueError:
            numbers = cls()
        if len(numbers) not in (1, 3):
            raise typer.BadParameter(
                f"{text!r} is not one number, or three with commas (R,G,B), such as 0.485,0.456,0.406"
            )
        return numbers


class Size(tuple[int, ...]):
    """Height and width in pixels; typed ``224`` or ``224x320``."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The size in ``text``."""
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*[xX]\s*(\d{1,5}))?\s*", text, re.ASCII)
        if match is None:
            raise typer.BadParameter(f"{text!r} is not a size in pixels, such as 224 or 224x320 (height x width)")
        return cls((int(match[1]), int(match[2] or match[1])))
