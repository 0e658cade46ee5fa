"""Lead sheets in the layouts of POP909's structure and of OpenEWLD, made by hand."""

import zipfile
from pathlib import Path

import pytest

from musicfm.errors import DataError
from musicfm.render.composition import compose
from musicfm.render.lead_sheets import LeadSheet, choose, grouped, read_lead_sheets
from musicfm.render.score import ScoreNote
from musicfm.render.splits import SEEDS, is_reserved

TUNE = (60, 62, 64, 65, 67, 69, 71, 72, 67, 64, 65, 62, 59, 60, 64, 67)


def pop909(folder: Path, *, phrases: str = "i1A2A2b1o1\n", pitches: tuple[int, ...] = TUNE) -> None:
    """A song of seven bars in G: a bar's rest, then notes of an eighth."""
    folder.mkdir(parents=True)
    (folder / "human_label1.txt").write_text(phrases)
    (folder / "analyzed_key.txt").write_text("G:maj")
    notes = [f"{pitch} 2" for pitch in pitches * 2]
    (folder / "melody.txt").write_text("\n".join(["0 16", *notes, "0 32"]) + "\n")
    chords = ["N [] 0 4", "G:maj [2, 7, 11] 7 8 ", "C:maj/3 [0, 4, 7] 0 4",
              "D:sus4(b7) [0, 2, 7] 2 4", "G:maj9/2 [2, 7, 11] 7 8"]  # fmt: skip
    (folder / "finalized_chord.txt").write_text("\n".join(chords) + "\n")


MEASURE = "<measure>{}</measure>"
NOTE = "<note><pitch><step>{}</step>{}<octave>4</octave></pitch><duration>{}</duration>{}</note>"
CHORD = "<harmony><root><root-step>{}</root-step></root><kind>{}</kind>{}</harmony>"
HEAD = ("<attributes><divisions>2</divisions><key><fifths>1</fifths><mode>major</mode></key>"
        "<time><beats>{}</beats><beat-type>4</beat-type></time></attributes>")  # fmt: skip


def musicxml(path: Path, *measures: str, beats: int = 3) -> None:
    """A score of one part; the first measure has the head."""
    first, *others = measures
    body = "".join(MEASURE.format(m) for m in (HEAD.format(beats) + first, *others))
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        text = f"<score-partwise><part id='P1'>{body}</part></score-partwise>"
        archive.writestr("Tune.xml", text)


def waltz(path: Path) -> None:
    """A pickup of a quarter, two bars with a tie between them, and E minor at the end."""
    musicxml(
        path,
        NOTE.format("D", "", 2, ""),
        CHORD.format("G", "major", "") + NOTE.format("B", "<alter>-1</alter>", 3, "")
        + NOTE.format("A", "", 3, '<tie type="start"/>'),
        NOTE.format("A", "", 2, '<tie type="stop"/>')
        + CHORD.format("E", "minor-seventh", "<bass><bass-step>G</bass-step></bass>")
        + NOTE.format("E", "", 4, ""),
    )  # fmt: skip


def test_pop909(tmp_path: Path) -> None:
    pop909(tmp_path / "songs" / "001")
    (sheet,) = read_lead_sheets(tmp_path)
    assert (sheet.name, sheet.metre, sheet.tonic, sheet.mode) == ("songs/001", "4/4", 7, "major")
    assert sheet.num_bars == 7
    assert sheet.sections == (("intro", 1), ("A", 4), ("inst", 1), ("outro", 1))
    assert sheet.melody[0] == ScoreNote(16, 18, 60)
    assert [tuple(chord) for chord in sheet.chords] == [
        (16, 48, 7, "maj", 0), (48, 64, 0, "maj", 4), (64, 80, 2, "sus4", 0),
        (80, 112, 7, "maj7", 0),
    ]  # fmt: skip


def test_openewld(tmp_path: Path) -> None:
    waltz(tmp_path / "dataset" / "Somebody" / "Waltz" / "Waltz.mxl")
    (sheet,) = read_lead_sheets(tmp_path)
    assert (sheet.metre, sheet.num_bars, sheet.sections) == ("3/4", 2, ())
    assert (sheet.tonic, sheet.mode) == (4, "minor")  # G's signature, but E minor at the end
    assert [tuple(note)[:3] for note in sheet.melody] == [
        (-4, 0, 62), (0, 6, 70), (6, 16, 69), (16, 24, 64),
    ]  # fmt: skip
    assert [tuple(chord) for chord in sheet.chords] == [
        (0, 16, 7, "maj", 0), (16, 24, 4, "min7", 3),
    ]  # fmt: skip


def test_other_metres_and_bach_are_left_out(tmp_path: Path) -> None:
    waltz(tmp_path / "Waltz.mxl")
    waltz(tmp_path / "Johann_Sebastian_Bach" / "Air.mxl")
    waltz(tmp_path / "Otto_Harbach" / "Waltz.mxl")
    musicxml(tmp_path / "March.mxl", NOTE.format("D", "", 4, ""), beats=2)
    pop909(tmp_path / "002", phrases="A4A4A4A4")  # chords of half as many bars
    names = [sheet.name for sheet in read_lead_sheets(tmp_path)]
    assert names == ["Otto_Harbach/Waltz.mxl", "Waltz.mxl"]


def test_folders_without_lead_sheets_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no lead sheets in"):
        read_lead_sheets(tmp_path)
    (tmp_path / "bad.mxl").write_text("no archive")
    with pytest.raises(DataError, match=r"bad\.mxl cannot be read as a lead sheet"):
        read_lead_sheets(tmp_path)
    (tmp_path / "bad.mxl").unlink()
    pop909(tmp_path / "001")
    (tmp_path / "001" / "melody.txt").write_text("sixty 2\n")
    with pytest.raises(DataError, match="001 cannot be read as a lead sheet"):
        read_lead_sheets(tmp_path)


def sheet_of(name: str, pitches: tuple[int, ...]) -> LeadSheet:
    melody = tuple(ScoreNote(2 * i, 2 * i + 2, pitch) for i, pitch in enumerate(pitches))
    return LeadSheet(name, "4/4", 0, "major", 4, melody, (), ())


def test_songs_that_share_a_melody_are_one_group_in_any_key() -> None:
    other = tuple(60 + (7 * i * i) % 11 for i in range(16))
    sheets = grouped([
        sheet_of("a", TUNE), sheet_of("b", other),
        sheet_of("c", (50, 55, *(pitch + 3 for pitch in TUNE))), sheet_of("d", (60, 62) * 12),
        sheet_of("e", (61, 63) * 12),
    ])  # fmt: skip
    assert [sheet.group for sheet in sheets] == ["a", "b", "a", "d", "e"]


def test_heldout_songs_have_compositions_of_their_own() -> None:
    sheets = grouped([sheet_of(str(number), (60 + number,) * 3) for number in range(40)])
    for split in ("train", "heldout"):
        names = {choose(sheets, SEEDS[split].start + n).name for n in range(100)}
        assert all(is_reserved("composition", [name]) == (split == "heldout") for name in names)
        assert len(names) > 5
    few = [sheet for sheet in sheets if not is_reserved("composition", [sheet.group])]
    with pytest.raises(DataError, match="none is for heldout songs"):
        choose(few, SEEDS["heldout"].start)


def test_an_arrangement_has_the_melody_the_chords_and_the_form(tmp_path: Path) -> None:
    pop909(tmp_path / "001")
    (sheet,) = read_lead_sheets(tmp_path)
    for seed in range(12):
        song = compose(seed, sheet=sheet)
        assert song.composition == "001"
        lead = next(part.notes for part in song.parts if part.role == "lead")
        intervals = [note.pitch - lead[0].pitch for note in lead]
        assert intervals == [note.pitch - TUNE[0] for note in sheet.melody]
        tonic = song.labels.keys[0].value
        assert tonic.endswith(":major")
        named = [chord.value for chord in song.labels.chords if chord.value != "N"]
        assert len(named) == 4
        root = named[0].split(":")[0]
        assert root == tonic.split(":")[0]
        names = [s.value for s in song.labels.segments if s.value != "silence"]
        assert names == ["intro", "no_function", "inst", "outro"]
        beats = len(song.labels.beats)
        assert beats == 4 * sheet.num_bars


def test_a_tune_without_phrases_is_repeated_and_has_no_segments(tmp_path: Path) -> None:
    waltz(tmp_path / "Waltz.mxl")
    (sheet,) = read_lead_sheets(tmp_path)
    song = compose(3, sheet=sheet)
    assert song.labels.segments == ()
    assert song.duration > 50
    lead = next(part.notes for part in song.parts if part.role == "lead")
    assert len(lead) % len(sheet.melody) == 0
    assert song.labels.beats[0].position == 3  # the pickup's
