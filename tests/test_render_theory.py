import mir_eval
import pytest

from musicfm.render.theory import MODES, QUALITIES, Chord, Tonality


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tonic", range(12))
def test_chord_names_say_what_the_chords_are(tonic: int, mode: str) -> None:
    key = Tonality(tonic, mode)
    for offset in range(12):
        for quality in QUALITIES if mode == "major" else ["maj"]:
            for bass in QUALITIES[quality]:
                chord = Chord(key, offset, quality, bass)
                root, bitmap, over = mir_eval.chord.encode(chord.name)
                named = {(root + step) % 12 for step in range(12) if bitmap[step]}
                assert root == chord.root, chord
                assert named == set(chord.pitch_classes), chord
                assert (root + over) % 12 == chord.bass_pitch_class, chord


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Tonality(3, "minor"), "Eb:minor"),
        (Tonality(8, "minor"), "G#:minor"),
        (Tonality(6, "major"), "F#:major"),
        (Tonality(2, "dorian"), "D:dorian"),
        (Tonality(10, "mixolydian"), "Bb:mixolydian"),
    ],
)
def test_key_names(key: Tonality, name: str) -> None:
    assert key.name == name


def test_chords_are_spelled_as_degrees_of_their_key() -> None:
    major = Tonality(4, "major")
    assert Chord(major, 10, "maj").name == "D:maj"
    assert Chord(major, 8, "maj").name == "C:maj"
    assert Chord(Tonality(7, "minor"), 3, "maj").name == "Bb:maj"
    assert Chord(Tonality(5, "major"), 5, "min6", 3).name == "Bb:min6/b3"


def test_a_melody_over_a_chord_avoids_what_rubs_with_it() -> None:
    key = Tonality(9, "minor")
    dominant = Chord(key, 7, "7")  # E7 has G sharp, so that the key's G must not sound
    assert 8 in dominant.scale
    assert 7 not in dominant.scale
    assert Chord(key, 0, "min").scale == key.scale
