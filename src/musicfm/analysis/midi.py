"""An analysis as a MIDI file, for the grid of a sequencer."""

import mido
import numpy as np
import numpy.typing as npt

from musicfm.analysis.analyzer import Analysis
from musicfm.datasets.annotations import Beats

_TICKS = 480  # of a MIDI file, per beat
_SIDE_STICK, _CLAVES = 37, 75  # General MIDI percussion
_DRUMS = 9
_DEFAULT_BEAT_SECONDS = 0.5
_LONGEST_BAR = 255  # beats; a MIDI file has a byte for them
_SLOWEST = 2**24 - 1  # microseconds per beat; a MIDI file has three bytes for them


def tempo_map(analysis: Analysis) -> mido.MidiFile:
    """A MIDI file whose tempo follows the beats, with a click at each and the sections as markers.

    A quarter note is a beat, and a bar is one, so that a sequencer's grid lies on the music.
    """
    file = mido.MidiFile(ticks_per_beat=_TICKS)
    beats = analysis.annotations.beats or Beats(np.empty(0), np.empty(0, np.int64))
    file.tracks += [_tempo_track(analysis, beats), _click_track(beats)]
    return file


def _tempo_track(analysis: Analysis, beats: Beats) -> mido.MidiTrack:
    """A tempo for each beat, metres, and sections as markers at the beat that is nearest."""
    track = mido.MidiTrack(
        [mido.MetaMessage("track_name", name=_latin(analysis.printable().title))]
    )
    # What comes before the first beat is a beat too, of whatever length.
    times = np.concatenate([[0.0], beats.times[beats.times > 0.0]])
    metres = _metres(np.concatenate([np.zeros(len(times) - len(beats.times)), beats.positions]))
    markers: dict[int, list[str]] = {}
    sections = analysis.annotations.segments
    if sections is not None:
        for start, label in zip(sections.intervals[:, 0], sections.labels, strict=True):
            markers.setdefault(int(np.abs(times - start).argmin()), []).append(label)
    lengths = np.diff(times)
    lengths = np.append(lengths, lengths[-1:] if len(lengths) else _DEFAULT_BEAT_SECONDS)
    for index, length in enumerate(lengths.tolist()):
        tempo = min(max(1, round(1e6 * length)), _SLOWEST)
        delta = _TICKS if index else 0
        track.append(mido.MetaMessage("set_tempo", tempo=tempo, time=delta))
        if index in metres:
            track.append(mido.MetaMessage("time_signature", numerator=metres[index]))
        track += [mido.MetaMessage("marker", text=label) for label in markers.get(index, [])]
    return track


def _metres(positions: npt.NDArray[np.float64]) -> dict[int, int]:
    """Beats in a bar, by the beat at which that begins to hold; what comes before the first
    downbeat is a bar, too.

    Args:
        positions: of the beats in their bars; 1 is a downbeat.
    """
    downbeats = np.flatnonzero(positions == 1)
    if not len(downbeats):
        return {}
    starts = np.union1d(0, downbeats)
    lengths = np.minimum(np.diff(starts), _LONGEST_BAR)
    changes = np.flatnonzero(np.diff(lengths, prepend=0))
    return {int(starts[change]): int(lengths[change]) for change in changes}


def _click_track(beats: Beats) -> mido.MidiTrack:
    track = mido.MidiTrack([mido.MetaMessage("track_name", name="clicks")])
    wait = _TICKS if len(beats.times) and beats.times[0] > 0.0 else 0
    for position in beats.positions.tolist():
        note, velocity = (_CLAVES, 112) if position == 1 else (_SIDE_STICK, 80)
        sound = {"channel": _DRUMS, "note": note}
        track.append(mido.Message("note_on", velocity=velocity, time=wait, **sound))
        track.append(mido.Message("note_off", time=_TICKS // 8, **sound))
        wait = _TICKS - _TICKS // 8
    return track


def _latin(text: str) -> str:
    """As MIDI files have text."""
    return text.encode("latin-1", "replace").decode("latin-1")
