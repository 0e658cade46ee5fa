import ctypes
import os
import platform
import subprocess
import sys

import pytest

from musicfm.memory import tune_malloc

MAPPED = """
import ctypes, subprocess, sys
from musicfm.memory import tune_malloc

class Info(ctypes.Structure):  # glibc's mallinfo2
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

if "keep" in sys.argv:
    tune_malloc()
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info
before = mallinfo().hblkhd
block = b"x" * 24_000_000
print(mallinfo().hblkhd - before)
if "child" in sys.argv:
    subprocess.run([sys.executable, "-c", sys.stdin.read()], check=True)
"""


def mapped(*arguments: str) -> list[int]:
    """Bytes of a large block that are given back when it is freed."""
    done = subprocess.run(
        [sys.executable, "-c", MAPPED, *arguments],
        input=MAPPED,
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
        check=True,
        capture_output=True,
        text=True,
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
def test_large_blocks_are_kept_in_this_process_and_in_those_it_starts() -> None:
    (without,) = mapped()
    assert without >= 24_000_000
    assert mapped("keep", "child") == [0, 0]


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())  # another C library
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"):
        monkeypatch.setenv(name, "7")
    tune_malloc()
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "5"
