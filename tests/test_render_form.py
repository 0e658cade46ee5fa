import pytest

from musicfm.render.dice import Dice
from musicfm.render.form import MAX_SECONDS, MIN_SECONDS, Section, plan_form
from musicfm.render.splits import is_reserved
from musicfm.render.theory import Tonality

KEY = Tonality(2, "major")


def form(
    number: int, bar_seconds: float = 2.0, *, reserved: bool = False, drums: bool = True
) -> tuple[Section, ...]:
    return plan_form(Dice("test", number), KEY, bar_seconds, reserved, drums)


@pytest.mark.parametrize("bar_seconds", [1.0, 2.0, 4.5])
def test_songs_have_a_length(bar_seconds: float) -> None:
    for number in range(50):
        sections = form(number, bar_seconds)
        bars = sections[-1].first_bar + sections[-1].bars
        assert MIN_SECONDS <= bars * bar_seconds <= MAX_SECONDS


def test_sections_follow_one_another() -> None:
    for number in range(50):
        bar = 0
        for section in form(number):
            assert section.first_bar == bar
            assert section.bars >= 1
            bar += section.bars


@pytest.mark.parametrize("reserved", [False, True])
def test_forms_are_reserved_or_not(reserved: bool) -> None:
    for number in range(50):
        labels = [section.label for section in form(number, reserved=reserved)]
        assert is_reserved("form", labels) == reserved


def test_something_comes_back() -> None:
    for number in range(100):
        labels = [section.label for section in form(number)]
        assert max(labels.count("verse"), labels.count("chorus")) >= 2
        assert "intro" not in labels[1:]
        assert "outro" not in labels[:-1]


def test_at_most_one_section_is_in_another_key() -> None:
    modulating = 0
    for number in range(200):
        sections = form(number)
        elsewhere = [section for section in sections if section.key != KEY]
        assert len(elsewhere) <= 1
        modulating += len(elsewhere)
        if elsewhere:
            assert elsewhere[0].bars < 0.15 * sum(section.bars for section in sections)
            assert elsewhere[0] is not sections[0]
    assert 20 < modulating < 80


def test_without_drums_nothing_is_for_drums_only() -> None:
    assert any(section.drums_only for number in range(100) for section in form(number))
    assert not any(
        section.drums_only for number in range(100) for section in form(number, drums=False)
    )


def test_phrases_are_of_all_lengths() -> None:
    lengths = [
        phrase.bars for number in range(200) for section in form(number)
        for phrase in section.phrases
    ]  # fmt: skip
    assert set(range(2, 9)) <= set(lengths)
    assert 0.3 < sum(length not in (4, 8) for length in lengths) / len(lengths) < 0.7
