"""Memory of a command with all its processes, read from real ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.memory import family, in_process_with_peak, resident_KiB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FORKS = """
import os, sys, threading
shared = bytearray(os.urandom(1 << 20)) * 48  # MiB
def fork():
    if os.fork() == 0:
        own = bytearray(os.urandom(1 << 20)) * 32
        print("ready", flush=True)
        sys.stdin.read()
        os._exit(0)
thread = threading.Thread(target=fork)  # a process of a thread belongs to the family as well
thread.start()
thread.join()
sys.stdin.read()
"""


def test_all_processes_count_and_what_they_share_counts_once() -> None:
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", FORKS], stdin=-1, stdout=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        together = list(family(process.pid))
        MiB = sum(map(resident_KiB, together)) / 1024
        process.stdin.close()
    assert len(together) == 2
    assert 48 + 32 < MiB < 48 + 32 + 40, "Python itself takes some 10 MiB; the 48 twice would be 128 and more"


def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert (list(family(process.pid)), resident_KiB(process.pid)) == ([process.pid], 0)


def test_the_last_line_is_the_result_and_a_failure_ends_the_benchmark() -> None:
    result, peak_MiB = in_process_with_peak([sys.executable, "-c", "print('noise'); print('{\"a\": 1}')"])
    assert result == {"a": 1}
    assert peak_MiB >= 0
    with pytest.raises(SystemExit, match=r"(?s)exit 3\n.*why"):
        in_process_with_peak([sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"])
