import contextlib
import gc
import itertools
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from musicfm.audio import processes, reading
from musicfm.audio.decoders import (
    Block,
    End,
    Event,
    Failure,
    decode_files,
)
from musicfm.errors import AudioError, AudioWarning

RATE = 100
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")
Samples = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def _spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START_METHOD", "spawn")


def ramp(length: int) -> Samples:
    return np.arange(length, dtype=np.float32)


def play(
    path: str,
    *,
    sample_rate: int,
    on_damage: str,
    block_seconds: float,
    on_info: Callable[[reading.AudioInfo], object],
) -> Iterator[Samples]:
    """A decoder that does what the file's name says: runs in the worker."""
    assert (sample_rate, on_damage, block_seconds) == (RATE, "warn", 1.0)
    what, _, number = path.partition(":")
    if what == "ramp":  # in blocks that are longer than a slot, and one that is empty
        yield ramp(0)
        yield from np.split(ramp(int(number)), range(250, int(number), 250))
    elif what == "progress":  # leaves a byte in the file for every block
        for _ in range(100):
            with open(number, "ab") as file:
                file.write(b".")
            yield ramp(RATE)
    elif what == "warn":
        warnings.warn("a second is missing", AudioWarning, stacklevel=1)
        warnings.warn("nobody's business", DeprecationWarning, stacklevel=1)
        yield ramp(2)
    elif what == "refuse":
        raise AudioError(f"{path}: not audio")
    elif what == "raise":
        yield ramp(RATE)
        raise OSError("two\nlines")
    elif what == "signal":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        yield ramp(RATE)
        os.kill(os.getpid(), int(number))
    elif what == "exit":
        os._exit(int(number))
    elif what == "hang":
        yield ramp(RATE)
        time.sleep(1e6)
    elif what == "modules":
        raise AudioError(" ".join(sys.modules))


Events = Generator[Event[str], None, None]
OPTIONS: dict[str, Any] = {"on_damage": "warn", "block_seconds": 1.0, "_decode": play}


def decode(paths: list[str], num_workers: int = 2, num_slots: int = 3, **options: Any) -> Events:
    return decode_files(
        [(path, path) for path in paths],
        RATE,
        num_workers=num_workers,
        num_slots=num_slots,
        **OPTIONS | options,
    )


def outcomes(events: Iterator[Event[str]]) -> dict[str, Samples | str]:
    """The samples of each complete recording, the reason for each other one."""
    blocks: dict[str, list[Samples]] = {}
    results: dict[str, Samples | str] = {}
    for event in events:
        assert event.key not in results
        match event:
            case Block(key, samples):
                assert 0 < len(samples) <= 1.05 * RATE
                assert samples.dtype == np.float32
                blocks.setdefault(key, []).append(samples)
            case End(key):
                results[key] = np.concatenate([ramp(0), *blocks.pop(key, [])])
            case Failure(key, reason):
                blocks.pop(key, None)
                results[key] = reason
    assert not blocks
    return results


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith(("pym-", "psm_"))}


def mapped() -> int:
    """How many rings this process maps."""
    return Path("/proc/self/maps").read_text().count("/pym-")


def test_recordings_come_as_audio_stream_gives_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a.flac", tmp_path / "b.wav", tmp_path / "no.wav"]
    for path in paths[:2]:
        soundfile.write(path, rng.uniform(-0.5, 0.5, (3 * 44100, 2)), 44100)
    blocks: dict[Path, list[Samples]] = {path: [] for path in paths}
    others = []
    for event in decode_files(zip(paths, paths, strict=True), 24000, num_workers=2):
        if isinstance(event, Block):
            blocks[event.key].append(event.samples)
        else:
            others.append(event)
    for path in paths[:2]:
        np.testing.assert_array_equal(np.concatenate(blocks[path]), reading.load(path, 24000))
        assert End(path, ()) in others
    with pytest.raises(AudioError) as error:
        reading.load(paths[2], 24000)
    assert Failure(paths[2], str(error.value)) in others


def test_the_samples_arrive_whole_and_in_order() -> None:
    lengths = [0, 1, 99, 100, 101, 250, 1234, 5000]
    results = outcomes(decode([f"ramp:{length}" for length in lengths]))
    assert len(results) == len(lengths)
    for length in lengths:
        np.testing.assert_array_equal(results[f"ramp:{length}"], ramp(length))


def test_files_interleave_and_keys_may_be_anything() -> None:
    jobs = [((number, "any"), Path("ramp:2000000")) for number in range(2)]
    with contextlib.closing(decode_files(jobs, RATE, num_workers=2, **OPTIONS)) as events:
        first = next(events).key
        assert next(event.key for event in events if event.key != first) in dict(jobs)
        time.sleep(1.0)  # both rings are full now: neither keeps the other waiting
        keys = [event.key for event in itertools.islice(events, 8)]
        assert 3 <= keys.count(first) <= 5


def test_a_hostile_file_costs_only_itself() -> None:
    damaged = "the file is probably damaged."
    bad = {
        "signal:11": f"signal:11 crashed the decoder (signal 11, Segmentation fault); {damaged}",
        "signal:9": "signal:9 was in a decoder that was killed; memory is probably short.",
        "exit:3": f"exit:3 ended the decoder (exit code 3); {damaged}",
        "hang": f"hang made no progress in the decoder for 0.5 s; {damaged}",
        "raise:{}\n\udcff": "raise:{} \\udcff cannot be decoded (OSError: two lines).",
        "refuse": "refuse: not audio",
    }
    good = [f"ramp:{1000 + number}" for number in range(len(bad))]
    paths = [path for pair in zip(bad, good, strict=True) for path in pair]
    results = outcomes(decode(paths, timeout_seconds=0.5))
    assert {path: results.pop(path) for path in bad} == bad
    assert sorted(results) == good
    for path, samples in results.items():
        np.testing.assert_array_equal(samples, ramp(int(path[5:])))


def test_warnings_come_with_the_end() -> None:
    _, end = decode(["warn"], num_workers=1)
    assert end == End("warn", ("a second is missing",))


def test_the_workers_do_not_import_torch() -> None:
    (event,) = decode(["modules"], num_workers=1)
    assert isinstance(event, Failure)
    assert "musicfm.audio.decoders" in event.reason.split()
    assert "torch" not in event.reason.split()


def test_a_slow_consumer_stops_the_decoding_and_is_not_a_timeout(tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    with contextlib.closing(
        decode([f"progress:{progress}"], num_workers=1, timeout_seconds=0.2)
    ) as events:
        for num_received in range(1, 4):
            assert isinstance(next(events), Block)
            # It fills the ring, and holds one block more in its hand.
            expected = num_received + 3 + 1
            assert eventually(partial(has_size, progress, expected))
            time.sleep(0.4)
            assert has_size(progress, expected)
        assert [type(event) for event in events] == [Block] * 97 + [End]


def test_jobs_are_taken_lazily() -> None:
    num_taken = 0

    def jobs() -> Iterator[tuple[int, str]]:
        nonlocal num_taken
        for num_taken in range(1, 1_000_001):
            yield num_taken, "ramp:10"

    with contextlib.closing(decode_files(jobs(), RATE, num_workers=2, **OPTIONS)) as events:
        ends = (event for event in events if isinstance(event, End))
        for num_done, _ in enumerate(itertools.islice(ends, 200), start=1):
            assert num_taken <= num_done + 2 * 2
    assert num_taken >= 200


def test_jobs_may_come_later() -> None:
    jobs = iter([("a", "ramp:1"), None, None, ("b", "ramp:2"), None])
    with contextlib.closing(decode_files(jobs, RATE, num_workers=1, **OPTIONS)) as events:
        assert [event.key for event in events if isinstance(event, End)] == ["a", "b"]
        assert next(jobs, "none") == "none"


def test_no_jobs_start_no_process() -> None:
    assert list(decode([])) == []


@pytest.mark.parametrize("count", ["num_workers", "num_slots"])
def test_counts_are_checked(count: str) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        decode([], **{count: 0})


@linux
def test_leaving_early_ends_the_processes_and_frees_the_memory() -> None:
    list(decode(["ramp:1"]))  # starts what multiprocessing keeps for good
    gc.collect()
    before = mapped(), shared_memory(), len(os.listdir("/proc/self/fd"))
    num_slots = 20_000  # multiprocessing keeps less than 4 MiB for the next time
    with (
        contextlib.suppress(ZeroDivisionError),
        contextlib.closing(decode(["hang", "ramp:100000"], num_slots=num_slots)) as events,
    ):
        next(events)
        assert len(multiprocessing.active_children()) == 2
        assert mapped() == before[0] + 2
        assert shared_memory() == before[1]
        raise ZeroDivisionError
    assert multiprocessing.active_children() == []
    del events
    gc.collect()
    assert (mapped(), shared_memory(), len(os.listdir("/proc/self/fd"))) == before


SCRIPT = """
import multiprocessing, sys, time
sys.path.insert(0, sys.argv[1])
from musicfm.audio.decoders import decode_files
from test_audio_decoders import play

def main():
    jobs = [(0, "hang"), (1, "ramp:100000")]
    events = decode_files(
        jobs, 100, num_workers=2, on_damage="warn", block_seconds=1.0, _decode=play
    )
    for event in events:
        if event.key == 0:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            time.sleep(1e6)

"""
GUARDED = SCRIPT + 'if __name__ == "__main__":\n    main()\n'


@contextlib.contextmanager
def running(code: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A script in a process group of its own, as a terminal would run it."""
    (folder / "script.py").write_text(code)
    command = [sys.executable, str(folder / "script.py"), str(Path(__file__).parent)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def pids(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout
    numbers = [int(number) for number in process.stdout.readline().split()]
    assert len(numbers) == 2
    return numbers


def gone(numbers: list[int]) -> bool:
    """Whether all have ended; a zombie waits for whoever adopted it and counts as ended."""
    states = []
    for number in numbers:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.append(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0])
    return all(state in "ZX" for state in states)


@linux
def test_a_killed_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    before = shared_memory()
    with running(GUARDED, tmp_path) as process:
        workers = pids(process)  # one hangs, one waits for a slot
        process.kill()
        assert eventually(lambda: gone(workers))
        assert eventually(lambda: shared_memory() == before)
        assert process.stderr
        assert process.stderr.read() == ""


@linux
def test_ctrl_c_interrupts_the_parent_alone(tmp_path: Path) -> None:
    before = shared_memory()
    with running(GUARDED, tmp_path) as process:
        workers = pids(process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr
        message = process.stderr.read()
        assert message.count("Traceback") == 1
        assert message.endswith("KeyboardInterrupt\n")
        assert gone(workers)
        assert shared_memory() == before


@pytest.mark.processes
def test_workers_that_cannot_start_end_with_an_error(tmp_path: Path) -> None:
    with running(SCRIPT + "main()\n", tmp_path) as process:
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "MusicFMError: the decoder processes do not start (exit code 1)" in message
    assert "if __name__ == '__main__':" in message.splitlines()[-1]
