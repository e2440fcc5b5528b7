"""Published weights by URL: downloaded once, resumed after a cut, and never used before their SHA-256 is checked.

    ~/.cache/alexnet-deploy/              $ALEXNET_DEPLOY_CACHE, or alexnet-deploy under $XDG_CACHE_HOME
      alexnet-owt-7be5be79.pth            whole; verified before each use
      alexnet-owt-7be5be79.pth.part       the rest of an interrupted download, which the next one continues
      alexnet-owt-7be5be79.pth.validator  the ETag or date of that part; only the same version is appended
      alexnet-owt-7be5be79.pth.lock       held during the download, so two processes never write one part

Only https is asked, in redirects as well, unless the caller allows plain http, which anybody on the way can change.
A proxy or a private certificate is taken from the environment, as requests does.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import requests
from filelock import FileLock, Timeout
from requests import exceptions

from alexnet_deploy.errors import ArtifactError, InputError, UnavailableError, one_line
from alexnet_deploy.files import CACHE_VARIABLE, cache_folder, sha256_of
from alexnet_deploy.progress import Progress, no_progress

MAX_BYTES = 2 << 30
"""AlexNet's published weights are 233 MiB, the largest of its successors (VGG-19) 548 MiB."""
TRIES = 5
BACKOFF_S = 0.5
"""Waits of 0.5, 1, 2 and 4 s: long enough for a short outage, short enough without a network."""
MAX_RETRY_AFTER_S = 60.0
LOCK_WAIT_S = 1800.0
CHUNK_BYTES = 64 << 10
"""Small, because an interruption loses the current chunk."""
_TIMEOUT_S = (10.0, 30.0)  # to connect; of silence while reading

_PASSING = (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError)
_HASHED_NAME = re.compile(r".*-([0-9a-f]{8,64})(?:\.\w+)+")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
"""Longer numbers are no file's; int() refuses those of more than 4300 digits."""
_BY_HAND = "download it by hand and pass the path of the file"


class _TryAgainError(Exception):
    """One try failed, but the next may succeed."""

    def __init__(self, cause: str, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.wait_s = wait_s


class _HttpsSession(requests.Session):
    """A session that follows no redirect from https to http."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        place = super().get_redirect_target(resp)
        if place is not None and urlsplit(urljoin(resp.url, place)).scheme == "http":
            raise exceptions.InvalidSchema("it redirects to plain http, which anybody on the way can change")
        return place


@dataclass(frozen=True, slots=True)
class _Download:
    """The download of one URL into ``part``."""

    url: str
    part: Path
    max_bytes: int
    allow_http: bool
    on_progress: Progress

    @property
    def _validator_file(self) -> Path:
        return self.part.with_suffix(".validator")

    def run(self, tries: int, sleep: Callable[[float], None]) -> None:
        """Try until ``part`` holds all bytes that the server announced."""
        last: Exception = _TryAgainError("no try was allowed")
        with requests.Session() if self.allow_http else _HttpsSession() as session:
            for number in range(tries):
                if number:
                    asked_s = last.wait_s if isinstance(last, _TryAgainError) else 0.0
                    sleep(max(BACKOFF_S * 2 ** (number - 1), asked_s))
                try:
                    return self._try(session)
                except _TryAgainError as exc:
                    last = exc
                except exceptions.RequestException as exc:
                    if not isinstance(exc, _PASSING) or isinstance(exc, exceptions.SSLError):
                        raise UnavailableError(f"{shown_url(self.url)}: {_root_cause(exc)}; {_BY_HAND}") from exc
                    last = exc
        cause = f"gave up after {tries} tries ({_root_cause(last)})"
        raise UnavailableError(f"{shown_url(self.url)}: {cause}; {_BY_HAND}") from last

    def _try(self, session: requests.Session) -> None:
        done, validator = self._left_over()
        headers = {"Accept-Encoding": "identity"}  # the hash and the ranges are those of the file itself
        if done:
            headers |= {"Range": f"bytes={done}-", "If-Range": validator}
        try:
            response = session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT_S)
        except ValueError as exc:  # how requests, urllib3 and urllib report a redirect to no usable address
            raise UnavailableError(
                f"{shown_url(self.url)}: no usable address ({_root_cause(exc)}); {_BY_HAND}"
            ) from exc
        with response:
            total = self._accept(response, done, validator)
            if response.status_code == HTTPStatus.OK:
                done = 0
            self._bound(max(done, total or 0))
            with self.part.open("ab" if done else "wb") as file:
                if not done:
                    self._validator_file.write_text(_validator(response), encoding="latin-1")
                self.on_progress("download", done, total or 0)
                for chunk in response.iter_content(CHUNK_BYTES):
                    done += len(chunk)
                    if done > self.max_bytes:
                        break
                    file.write(chunk)
                    self.on_progress("download", done, total or 0)
        self._bound(done)
        if total is not None and done != total:
            raise _TryAgainError(f"the server announced {total} bytes and sent {done}")

    def _left_over(self) -> tuple[int, str]:
        """Bytes that an earlier try left, and their validator; 0 bytes without one."""
        try:
            validator = self._validator_file.read_text(encoding="latin-1").partition("\n")[0].strip()
            return (self.part.stat().st_size, validator) if validator else (0, "")
        except FileNotFoundError:
            return 0, ""

    def _accept(self, response: requests.Response, done: int, validator: str) -> int | None:
        """Bytes of the whole file, if known; raises unless the server sends the file or the rest of ours."""
        status = response.status_code
        length = response.headers.get("Content-Length", "")
        if status == HTTPStatus.OK:
            return int(length) if _NUMBER.fullmatch(length) else None
        if done and status in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            # Some servers ignore If-Range, so the version of what they send is compared here once more.
            span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            same = status == HTTPStatus.PARTIAL_CONTENT and _validator(response) in ("", validator)
            if same and span and int(span[1]) == done:
                return int(span[2]) if span[2] != "*" else None
            self.part.unlink()
            raise _TryAgainError("the server cannot continue the interrupted download")
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise _TryAgainError(f"HTTP {status}", min(float(after), MAX_RETRY_AFTER_S) if after.isdecimal() else 0.0)
        raise UnavailableError(
            f"{shown_url(self.url)}: the server answered HTTP {status}; check the address, or {_BY_HAND}"
        )

    def _bound(self, size: int) -> None:
        if size > self.max_bytes:
            self.part.unlink(missing_ok=True)
            raise InputError(
                f"{shown_url(self.url)}: is larger than the {self.max_bytes} bytes allowed; check the address"
            )


def fetch(
    url: str,
    *,
    cache: Path | None = None,
    sha256_prefix: str | None = None,
    allow_http: bool = False,
    on_progress: Progress = no_progress,
    max_bytes: int = MAX_BYTES,
    tries: int = TRIES,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The verified local copy of ``url``, downloaded unless ``cache`` (default: ``cache_folder()``) has it already.

    ``sha256_prefix`` is 8 to 64 hex digits; by default those in the file name. ``allow_http`` accepts addresses and
    redirects without encryption. ``on_progress`` gets bytes, which start
    again at 0 if the server sends the whole file again. ``sleep`` waits, in seconds, before a new try. An
    interrupted download stays as NAME.part for the next call; a file with a wrong hash is removed.

    Raises InputError for a URL that is not https (or http, where allowed), carries no hash, or is too large;
    ArtifactError for a wrong hash; UnavailableError when the server refuses or cannot be reached, or the cache cannot
    be written.
    """
    name = _file_name(url, allow_http=allow_http)
    prefix = sha256_prefix.lower() if sha256_prefix is not None else expected_prefix(name)
    if prefix is None:
        raise InputError(
            f"{shown_url(url)}: its name holds no SHA-256 to verify (as NAME-7be5be79.pth does); {_BY_HAND}"
        )
    if not re.fullmatch(r"[0-9a-f]{8,64}", prefix):
        raise ValueError(f"sha256_prefix must be 8 to 64 hex digits, not {sha256_prefix!r}")
    folder = cache or cache_folder()
    target = folder / name
    try:
        if _has_hash(target, prefix):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{name}.lock", timeout=LOCK_WAIT_S):
            if _has_hash(target, prefix):  # another process downloaded it while this one waited
                return target
            part = folder / f"{name}.part"
            _Download(url, part, max_bytes, allow_http, on_progress).run(tries, sleep)
            if not (found := sha256_of(part)).startswith(prefix):
                with part.open("rb") as stream:
                    what = "the server sent a web page; " if stream.read(64).lstrip().startswith(b"<") else ""
                part.unlink()
                raise ArtifactError(
                    f"{shown_url(url)}: {what}SHA-256 starts with {found[: len(prefix)]}, expected {prefix}; "
                    f"the file was removed; try again, or {_BY_HAND}"
                )
            os.replace(part, target)
            part.with_suffix(".validator").unlink(missing_ok=True)
            return target
    except Timeout as exc:
        raise UnavailableError(f"{target}: another process has been downloading it for too long; end that one") from exc
    except OSError as exc:
        raise UnavailableError(
            f"{target}: cannot be stored ({exc.strerror or exc}); set {CACHE_VARIABLE} to a folder with room"
        ) from exc


def expected_prefix(name: str) -> str | None:
    """The SHA-256 prefix in a file name by torch hub's convention: ``alexnet-owt-7be5be79.pth`` -> ``7be5be79``."""
    match = _HASHED_NAME.fullmatch(name)
    return match[1] if match else None


def _file_name(url: str, *, allow_http: bool) -> str:
    try:
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("holds spaces, control characters or others that an address writes as %XX")
        parts = urlsplit(url)
        if parts.scheme == "http" and not allow_http:
            raise InputError(
                f"{shown_url(url)}: is plain http, which anybody on the way can change; use https, or add `allow_http`"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http or https address")
        name = PurePosixPath(unquote(parts.path)).name
        if not _SAFE_NAME.fullmatch(name):
            raise ValueError("its path does not end in a plain file name")
    except ValueError as exc:
        raise InputError(f"{shown_url(url)}: {exc}; check the address, or {_BY_HAND}") from exc
    return name


def _validator(response: requests.Response) -> str:
    """The header that identifies this version (RFC 9110, 13.1.5: a weak ETag must not guard a range)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _has_hash(path: Path, prefix: str) -> bool:
    return path.is_file() and sha256_of(path).startswith(prefix)


def shown_url(url: str) -> str:
    """The URL on one line, without what may be a secret: user, password, query.

    All before the last @ goes: a password may hold a slash or a question mark that nobody escaped.
    """
    return re.sub(r"(?<=://).*@|[?#].*", "", " ".join(url.split()))


def _root_cause(exc: BaseException) -> str:
    """The innermost cause on one line: requests wraps 'Connection refused' in three layers of its own."""
    while inner := exc.__cause__ or exc.__context__:
        exc = inner
    # Some of these messages quote the address, or that of a redirect: its user, password and signature are secrets.
    return re.sub(r"(?<=//)[^\s'\"]*@|[^\s'\"/]*:[^\s'\"/]*@|\?[^\s'\")]*", "", one_line(exc))
