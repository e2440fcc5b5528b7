"""Who may ask: keys from a file, needed for anything but the loopback address; and TLS."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import Mapping
from pathlib import Path

from alexnet_deploy.errors import InputError, UsageError
from alexnet_deploy.files import open_regular
from alexnet_deploy.serving.refusals import UnauthenticatedError
from alexnet_deploy.serving.settings import Settings

MIN_KEY = 16
"""Characters: shorter keys can be guessed."""
_MAX_FILE = 1 << 16
"""Bytes: above a thousand keys. Of a larger file, a cut key would be as good as a whole one."""

OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")
"""Answered without a key: an orchestrator has none."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
"""Of every response."""


class Keys:
    """The keys of an API key file: one per line, ``#`` starts a comment. Without a file nobody is asked."""

    def __init__(self, path: Path | None) -> None:
        """InputError if the file cannot be read, holds no key, or one that is too short or not plain text."""
        self._digests = [] if path is None else [_digest(key.encode()) for key in _read(path)]

    def check(self, headers: Mapping[str, str]) -> None:
        """UnauthenticatedError unless ``headers`` (lower case) carry a key, or none is needed.

        As ``Authorization: Bearer KEY``, ``X-API-Key: KEY``, or the password of basic authentication, which browsers
        ask their user for. The time that it takes does not depend on the key.
        """
        if not self._digests:
            return
        digest = _digest(_given(headers))
        if not sum(hmac.compare_digest(digest, known) for known in self._digests):
            raise UnauthenticatedError("needs a key of this server: send it as Authorization: Bearer KEY")


def _given(headers: Mapping[str, str]) -> bytes:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return headers.get("x-api-key", "").strip().encode()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _read(path: Path) -> list[str]:
    try:
        with open_regular(path) as stream:
            content = stream.read(_MAX_FILE + 1)
        text = content.decode("ascii")
    except OSError as exc:
        raise InputError(
            f"`api_key_file` {path}: cannot be read ({exc.strerror}); write a key of {MIN_KEY} or more "
            "characters into it"
        ) from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"`api_key_file` {path}: is not plain ASCII text; write one key per line") from exc
    if len(content) > _MAX_FILE:
        raise InputError(
            f"`api_key_file` {path}: is larger than {_MAX_FILE >> 10} KiB; write one key per line, and fewer"
        )
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InputError(f"`api_key_file` {path}: holds no key; write one per line")
    if any(len(key) < MIN_KEY or not key.isprintable() or " " in key for key in keys):
        raise InputError(
            f"`api_key_file` {path}: a key is shorter than {MIN_KEY} characters or has a space; make it longer"
        )
    return keys


def require_protection(settings: Settings) -> None:
    """UsageError if other machines could reach an unprotected server without anybody having said so."""
    if settings.api_key_file is None and not settings.allow_unauthenticated and not is_loopback(settings.host):
        raise UsageError(
            f"`host` {settings.host}: other machines could use this server without a key; give `api_key_file`, or "
            "`allow_unauthenticated` if something else protects it"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and later with a certificate chain and its key, both PEM; InputError if they cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, path in (("certificate", certificate), ("key", key)):
        try:
            open_regular(path).close()
        except OSError as exc:
            raise InputError(f"`{name}` {path}: cannot be read ({exc.strerror}); name a PEM file") from exc
    try:
        context.load_cert_chain(certificate, key, password="")  # an encrypted key must not ask on the terminal
    except (ssl.SSLError, OSError, ValueError) as exc:
        raise InputError(
            f"`certificate` {certificate}: does not make a pair with `key` {key}; name PEM files that belong together, "
            "the key without a password"
        ) from exc
    return context
