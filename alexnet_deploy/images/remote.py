"""Images behind an address: http(s) through requests, object stores (``s3://``, ``gs://`` ...) through fsspec.

An address of a private network is allowed: it is the user who names it.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from alexnet_deploy.errors import DeployError, InputError, UnavailableError, UsageError, one_line
from alexnet_deploy.images.codecs.formats import SUFFIXES
from alexnet_deploy.images.deadline import EndingSession

MAX_REDIRECTS = 5
TRIES = 3
WAIT_S = 0.5
"""Before the second try; twice that before the third."""
MAX_SECONDS = 60.0
"""For one image, all tries together. A try ends after a quarter of that if the server is silent."""
_TIMEOUT_S = (10.0, 15.0)  # to connect; of silence while reading
_BLOCK = 1 << 16
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)

Read = Callable[[], bytes]

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "hf": "huggingface_hub", "oss": "ossfs", "oci": "ocifs", "webdav": "webdav4", "sftp": "paramiko",
}  # fmt: skip
_local = threading.local()


def find_remote(address: str, max_bytes: int, *, allow_http: bool = False) -> Iterator[tuple[str, Read]]:
    """The images of an address: its name, and the function that reads its bytes, at most ``max_bytes``.

    An address of fsspec that ends in ``/`` stands for the images below it, one with ``*`` for those that match. Only
    what lists or reads is done over the network, and never at this call. A reader raises InputError for its image.

    Raises at the call UsageError for plain http unless ``allow_http``, UnavailableError for a missing package.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in ("file", "local"):
        raise InputError(f"{address}: is a file of this machine; give its path instead")
    if scheme in ("http", "https"):
        if _scheme(address) not in ("http", "https"):
            raise UsageError(f"{address}: is no valid address; check it")
        if _is_plain(address) and not allow_http:
            raise _plain_http(address)
        _import("requests", address)
        return iter([(address, partial(_read_http, address, max_bytes, allow_http))])
    if not allow_http and any(_scheme(part) == "http" for part in address.split("::")):  # as fsspec chains them
        raise _plain_http(address)
    _import("fsspec", address)
    _filesystem_class(scheme, address)
    return _find_in_store(address, max_bytes)


def open_store(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address that can be written, such as ``s3://``, and the path in it.

    Raises UsageError for http, which takes no files, InputError for an unknown kind of address, UnavailableError for a
    missing package.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in ("http", "https", "file", "local"):
        raise UsageError(f"`output` {address}: nothing is written to {scheme}://; give a path, or s3://, gs://, az://")
    fsspec = _import("fsspec", address)
    _filesystem_class(scheme, address)
    try:
        fs, path = fsspec.core.url_to_fs(address)
    except Exception as exc:  # every store has errors of its own
        raise InputError(f"{address}: cannot be opened ({one_line(exc)}); check the address and your access") from exc
    return fs, str(path)


def _import(package: str, address: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as exc:
        raise UnavailableError(
            f"{address}: reading it needs {package}; pip install 'alexnet-deploy[cloud]', or download it first"
        ) from exc


def _filesystem_class(scheme: str, address: str) -> None:
    try:
        _import("fsspec", address).get_filesystem_class(scheme)
    except ValueError as exc:
        raise InputError(
            f"{address}: no storage is known as {scheme}://; use https://, s3://, gs://, az:// or hf://"
        ) from exc
    except ImportError as exc:
        package = _PACKAGES.get(scheme, "its package of fsspec")
        raise UnavailableError(f"{address}: reading {scheme}:// needs {package}; pip install {package}") from exc


def _find_in_store(address: str, max_bytes: int) -> Iterator[tuple[str, Read]]:
    if not (address.endswith("/") or "*" in address):
        yield address, partial(_read_store, address, max_bytes)
        return
    try:
        fs, path = importlib.import_module("fsspec").core.url_to_fs(address)
        start = address.rstrip("/").removesuffix(path.rstrip("/"))  # paths are without scheme, some without host
        for found in fs.glob(path) if "*" in address else _walk(fs, path):
            if _is_image(found):
                name = f"{start}{found}"
                yield name, partial(_read_store, name, max_bytes)
    except DeployError:
        raise
    except Exception as exc:  # every store has errors of its own
        raise InputError(f"{address}: cannot be listed ({one_line(exc)}); check the address and your access") from exc


def _walk(fs: Any, path: str) -> Iterator[str]:
    for folder, _, files in fs.walk(path, on_error="raise"):
        yield from (f"{folder}/{name}" for name in sorted(files))


def _is_image(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    return not name.startswith(".") and f".{name.rpartition('.')[2]}" in SUFFIXES


def _read_store(address: str, max_bytes: int) -> bytes:
    try:
        with importlib.import_module("fsspec").open(address, "rb") as stream:
            data: bytes = stream.read(max_bytes + 1)
    except FileNotFoundError as exc:
        raise InputError(f"{address}: no such file; check the address") from exc
    except Exception as exc:
        raise InputError(f"{address}: cannot be read ({one_line(exc)}); check the address and your access") from exc
    _bound(address, len(data), max_bytes)
    return data


def _read_http(address: str, max_bytes: int, allow_http: bool) -> bytes:
    import requests

    deadline = time.monotonic() + MAX_SECONDS
    cause, session = "", _session()
    for attempt in range(TRIES):
        if session.ended.wait(WAIT_S * 2 ** (attempt - 1) if attempt else 0):
            break  # the image is not needed any more
        try:
            left_s = max(deadline - time.monotonic(), 0)
            with session.ended_after(left_s), _open_http(address, session.requests, allow_http) as response:
                if response.status_code == 200:
                    return _body(address, response, max_bytes, deadline)
                if response.status_code not in _PASSING:
                    raise InputError(f"{address}: the server answered HTTP {response.status_code}; check the address")
                cause = f"the server answered HTTP {response.status_code}"
        except (requests.RequestException, ValueError, OSError) as exc:
            if time.monotonic() > deadline:
                raise _too_slow(address) from exc
            cause = _root_cause(exc)
            passing = requests.ConnectionError | requests.Timeout | requests.exceptions.ChunkedEncodingError
            if not isinstance(exc, passing) or isinstance(exc, requests.exceptions.SSLError):
                break
    raise InputError(f"{address}: cannot be downloaded ({cause}); check the address and the network")


def _too_slow(address: str) -> InputError:
    return InputError(f"{address}: takes more than {MAX_SECONDS:.0f} s; download it first")


def _open_http(address: str, session: Any, allow_http: bool) -> Any:
    """The answer at the end of the redirects; each is checked as the address itself is."""
    url = address
    for _ in range(MAX_REDIRECTS + 1):
        response = session.get(url, stream=True, timeout=_TIMEOUT_S, allow_redirects=False)
        target = session.get_redirect_target(response) if response.status_code in _REDIRECTS else None
        if target is None:
            return response
        url = urljoin(url, target)
        response.close()
        if _scheme(url) not in ("http", "https"):
            raise InputError(f"{address}: is redirected to something that is no web address; check the address")
        if _is_plain(url) and not allow_http:
            raise InputError(f"{address}: is redirected to plain http, which is not allowed; check the address")
    raise InputError(f"{address}: is redirected more than {MAX_REDIRECTS} times; check the address")


class Downloads:
    """The downloads of several threads, which are ended together when their images are not needed any more."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._sessions: list[EndingSession] = []

    def join(self) -> None:
        """From now on, the downloads of this thread are some of these."""
        _local.session = EndingSession(self._ended)
        self._sessions.append(_local.session)

    def end(self) -> None:
        """End all, and those that begin later: each fails within the time that a server has to accept a connection."""
        self._ended.set()
        for session in self._sessions:
            session.end()


def _session() -> EndingSession:
    """One per thread: connections are kept, and requests does not promise that threads may share them."""
    if not hasattr(_local, "session"):
        Downloads().join()
    session: EndingSession = _local.session
    return session


def _body(address: str, response: Any, max_bytes: int, deadline: float) -> bytes:
    import requests
    from urllib3.exceptions import DecodeError, HTTPError

    announced = response.headers.get("Content-Length", "")
    _bound(address, int(announced) if announced.isdecimal() else 0, max_bytes)
    data = bytearray()
    try:
        # ``read1`` gives what has arrived, so the time is looked at even if the server is slow.
        while block := response.raw.read1(_BLOCK, decode_content=True):
            data += block
            _bound(address, len(data), max_bytes)
            if time.monotonic() > deadline:
                raise _too_slow(address)
    except DecodeError as exc:
        raise requests.exceptions.ContentDecodingError(exc) from exc
    except HTTPError as exc:
        raise requests.ConnectionError(exc) from exc
    if time.monotonic() > deadline:  # else the end of the connection could be that of the image
        raise _too_slow(address)
    return bytes(data)


def _bound(address: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InputError(f"{address}: has more than {max_bytes >> 20} MiB; download it first")


def _plain_http(address: str) -> UsageError:
    return UsageError(f"{address}: is plain http, which others can change on the way; use https or `allow_http`")


def _is_plain(url: str) -> bool:
    """Whether anybody on the way can read and change what ``url`` answers."""
    return _scheme(url) != "https"


def _scheme(url: str) -> str:
    """``https`` and so on; empty for a text that is no address at all, such as ``https://[/``."""
    try:
        return urlsplit(url).scheme.lower()
    except ValueError:
        return ""


def _root_cause(exc: BaseException) -> str:
    """The innermost cause on one line: requests wraps 'Connection refused' in three layers of its own."""
    while inner := exc.__cause__ or exc.__context__:
        exc = inner
    return one_line(exc)
