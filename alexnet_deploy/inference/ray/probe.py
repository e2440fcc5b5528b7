"""Whether a Ray cluster answers, within a bounded time: Ray's own connection tries for minutes and prints pages."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import socket
import subprocess
import sys

from alexnet_deploy.errors import UnavailableError, UsageError, one_line

LOCAL = "local"
CONNECT_S = 5.0
"""For a TCP connection."""
JOIN_S = 45.0
"""For Ray to join the cluster; on a busy machine of two cores it takes some five seconds."""

_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")
_JOIN = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False); print('joined')"


def require_ray() -> None:
    """UnavailableError unless Ray Data is installed."""
    missing = [name for name in ("ray", "pyarrow", "pandas") if not _is_installed(name)]
    if missing:
        raise UnavailableError(f"`ray` needs {missing[0]}; pip install 'alexnet-deploy[ray]', here and on all machines")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def prepare(address: str) -> None:
    """Check ``address``, and set what Ray reads from the environment; to be called before it is imported.

    Without settings of the user, a local Ray needs a secret of its own: its ports listen on all interfaces, and who
    reaches them runs any code. It sends no usage data.

    Raises UsageError for an address of another form, UnavailableError if no cluster answers there or this machine
    cannot join it.
    """
    environ = os.environ
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        if "RAY_AUTH_MODE" not in environ:
            environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        return
    if address.startswith("ray://"):
        raise UsageError(
            f"`ray` {address}: is an address of Ray Client, which is not supported; run the command on a machine of "
            "the cluster, with the address that 'ray start' printed"
        )
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 65536:
        raise UsageError(f"`ray` {address}: is neither HOST:PORT nor {LOCAL}; give the address of the cluster's head")
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), CONNECT_S).close()
    except OSError as exc:
        cause = exc.strerror or "no answer"
        raise UnavailableError(
            f"`ray` {address}: cannot be reached ({cause}); check the address, or start a cluster with 'ray start'"
        ) from exc
    _try_to_join(address)


def _try_to_join(address: str) -> None:
    """In a process of its own, which can be ended: what cannot join would block this one."""
    command = [sys.executable, "-c", _JOIN, address]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        try:
            said, _ = process.communicate(timeout=JOIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            said += f"\nno answer of a Ray cluster within {JOIN_S:.0f} s"
        if process.returncode == 0 and "joined" in said:
            return
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        raise UnavailableError(
            f"`ray` {address}: the cluster refuses the token; set RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN"
        )
    last = one_line(said.strip().splitlines()[-1] if said.strip() else "Ray ended")
    raise UnavailableError(f"`ray` {address}: cannot be joined ({last}); run the command on a machine of the cluster")
