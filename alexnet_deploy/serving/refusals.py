"""Every reason for which a request gets no answer, with its HTTP status and its gRPC code.

    Refusal
    ├── BadRequestError        400 INVALID_ARGUMENT     it cannot be understood, or an image cannot be used
    ├── UnauthenticatedError   401 UNAUTHENTICATED      no key, or a wrong one
    ├── NotFoundError          404 NOT_FOUND            no such model or version
    ├── TooSlowError           408 DEADLINE_EXCEEDED    its body did not arrive in time
    ├── TooLargeError          413 RESOURCE_EXHAUSTED   above a limit of this server: it will not do better later
    ├── UnsupportedMediaError  415 INVALID_ARGUMENT     an encoding of the body that is not read
    ├── HeadersTooLargeError   431 RESOURCE_EXHAUSTED   more headers than any client needs
    ├── EngineError            500 INTERNAL             the runtime failed, or its output is not finite
    ├── UnsupportedError       501 UNIMPLEMENTED        what this server does not do, whatever is sent
    ├── BusyError              503 RESOURCE_EXHAUSTED   the queue is full: try again after ``retry_after_s``
    ├── NotReadyError          503 UNAVAILABLE          still loading, or ending
    └── DeadlineError          504 DEADLINE_EXCEEDED    it waited longer than it may

A message is one line for the client. It quotes what the client sent, never a path of this machine.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn

from alexnet_deploy.errors import printable

_LONGEST = 500  # a message quotes names and values that the client chose
_LONGEST_NAME = 100


def shown(name: str) -> str:
    """A name that a client chose, for a message: printable, and short enough to leave room for the rest."""
    text = printable(name[: _LONGEST_NAME + 1])
    return (f"{text[:_LONGEST_NAME]}..." if len(text) > _LONGEST_NAME else text) or "the empty name"


class Refusal(Exception):
    """Base of all: ``status`` is for HTTP, ``code`` the name of a ``grpc.StatusCode``."""

    status: ClassVar[int]
    code: ClassVar[str]
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:_LONGEST])[:_LONGEST])


class BadRequestError(Refusal):
    """It cannot be understood, or an image cannot be used."""

    status, code = 400, "INVALID_ARGUMENT"


class UnauthenticatedError(Refusal):
    """No key, or a wrong one."""

    status, code = 401, "UNAUTHENTICATED"


class NotFoundError(Refusal):
    """No such model or version."""

    status, code = 404, "NOT_FOUND"


class TooSlowError(Refusal):
    """The body did not arrive in time."""

    status, code = 408, "DEADLINE_EXCEEDED"


class TooLargeError(Refusal):
    """Above a limit of this server."""

    status, code = 413, "RESOURCE_EXHAUSTED"


class UnsupportedMediaError(Refusal):
    """An encoding of the body that is not read."""

    status, code = 415, "INVALID_ARGUMENT"


class HeadersTooLargeError(Refusal):
    """More headers than any client needs."""

    status, code = 431, "RESOURCE_EXHAUSTED"

    def __init__(self) -> None:
        super().__init__("the headers have more than 32 KiB; send fewer or shorter ones")


class EngineError(Refusal):
    """The runtime failed, or its output is not finite."""

    status, code = 500, "INTERNAL"


class UnsupportedError(Refusal):
    """What this server does not do, whatever is sent."""

    status, code = 501, "UNIMPLEMENTED"


class BusyError(Refusal):
    """The queue is full."""

    status, code = 503, "RESOURCE_EXHAUSTED"
    retry_after_s = 1


class NotReadyError(Refusal):
    """Still loading, or ending."""

    status, code = 503, "UNAVAILABLE"
    retry_after_s = 2


class DeadlineError(Refusal):
    """It waited longer than it may."""

    status, code = 504, "DEADLINE_EXCEEDED"


def refuse_model_control() -> NoReturn:
    """Refuse Triton's calls that load and unload models."""
    raise UnsupportedError(
        "models are not loaded or unloaded by request: a bundle that is replaced in the store is loaded by itself"
    )
