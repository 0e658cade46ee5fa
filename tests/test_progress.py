"""The progress bars."""

import pytest

from musicfm.progress import RecordingProgress, Steps


def test_a_bar_is_full_when_all_recordings_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {113.0: 5_231_671, 65.0: 8_358_182}  # of which tenths do not add up
    with RecordingProgress("Listening", sizes) as bar:
        for duration in sizes:
            bar.on_start(duration, duration)
            for _ in range(10):
                bar.on_audio(duration, duration / 10)
            bar.on_end(duration)
    shown = capsys.readouterr().err
    assert "━" * 24 in shown
    assert "2/2 files" in shown


def test_a_recording_is_never_more_than_done(capsys: pytest.CaptureFixture[str]) -> None:
    with RecordingProgress("Listening", {"a": 1_000, "b": 1_000}) as bar:
        bar.on_start("a", 0.1)  # which it says, and lasts ten times as long
        bar.on_audio("a", 1.0)
        bar.on_end("a")
    shown = capsys.readouterr().err
    assert "1/2 files" in shown
    assert "━" * 13 not in shown


def test_steps_are_counted_and_may_be_silent(capsys: pytest.CaptureFixture[str]) -> None:
    for enabled in (True, False):
        with Steps("Training", 2, enabled) as bar:
            bar.advance()
        assert ("1/2" in capsys.readouterr().err) is enabled
