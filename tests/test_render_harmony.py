import pytest

from musicfm.render.dice import Dice
from musicfm.render.harmony import PhraseChord, is_dominant, write_phrase
from musicfm.render.splits import is_reserved
from musicfm.render.styles import STEPS_PER_BAR, STYLES, Metre
from musicfm.render.theory import MODES, Tonality


def phrase(
    number: int,
    mode: str = "major",
    metre: Metre = "4/4",
    bars: int = 4,
    bar_seconds: float = 2.0,
    *,
    closed: bool = True,
    pushing: bool = False,
    reserved: bool = False,
    style: str = "pop",
) -> tuple[PhraseChord, ...]:
    return write_phrase(
        Dice("test", number), mode, metre, STYLES[style], bars, bar_seconds,
        closed=closed, pushing=pushing, reserved=reserved,
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reserved", [False, True])
def test_progressions_are_reserved_or_not(mode: str, reserved: bool) -> None:
    for number in range(50):
        degrees = [slot.degree for slot in phrase(number, mode, reserved=reserved)]
        assert is_reserved("progression", [mode, *degrees]) == reserved


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_phrase_ends_on_the_tonic_in_root_position(mode: str) -> None:
    for number in range(50):
        *_, before, last = phrase(number, mode)
        assert last.chord(Tonality(5, mode)).root == 5
        assert last.bass == 0
        assert before.degree != last.degree
        if mode in ("major", "minor"):
            assert is_dominant(before.degree) or before.degree == "bVII"


def test_an_open_phrase_does_not_end_on_the_tonic() -> None:
    for number in range(50):
        assert phrase(number, closed=False)[-1].degree != "I"


@pytest.mark.parametrize("metre", STEPS_PER_BAR)
@pytest.mark.parametrize("bars", [2, 3, 4, 7, 9])
def test_chords_follow_one_another_within_the_phrase(metre: Metre, bars: int) -> None:
    for number in range(30):
        slots = phrase(number, metre=metre, bars=bars, bar_seconds=1.2)
        starts = [slot.start for slot in slots]
        assert starts[0] == 0
        assert starts == sorted(set(starts))
        assert starts[-1] < bars * STEPS_PER_BAR[metre]
        assert len(slots) >= 4
        ends = [*starts[1:], bars * STEPS_PER_BAR[metre]]
        longest = max(end - start for start, end in zip(starts, ends, strict=True))
        assert longest <= 2 * STEPS_PER_BAR[metre]


def test_slow_bars_have_more_than_one_chord() -> None:
    for number in range(30):
        assert len(phrase(number, bar_seconds=5.5)) == 8


def test_some_chords_come_before_the_beat_if_they_may() -> None:
    early = [slot.start % 4 for number in range(50) for slot in phrase(number, pushing=True)]
    assert 0.1 < early.count(2) / len(early) < 0.4
    assert all(slot.start % 4 == 0 for number in range(50) for slot in phrase(number))


def test_bass_notes_belong_to_their_chords() -> None:
    for number in range(200):
        for slot in phrase(number, "minor", style="classical"):
            chord = slot.chord(Tonality(0, "minor"))
            assert chord.bass_pitch_class in chord.pitch_classes


def test_there_are_as_many_progressions_as_phrases_nearly() -> None:
    progressions = {
        tuple(slot.degree for slot in phrase(number, bar_seconds=3.5)) for number in range(300)
    }
    assert len(progressions) > 200
