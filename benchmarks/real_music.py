"""Agreement with other programs on real recordings, which nobody has labelled.

    python benchmarks/real_music.py fetch CLIPS
    musicfm analyze CLIPS --out RESULTS/musicfm --no-page
    python benchmarks/real_music.py compare RESULTS

The clips are 75 s from the middle of 37 recordings, from the music of Debian's game packages
(Debian or Ubuntu; 450 MB are downloaded, 180 MB kept). RESULTS has a folder of JAMS files for each
program: musicfm's, and beside it what madmom, BeatNet, essentia, librosa, Chordino and crema find,
which whoever has them writes there as CLIP.jams.

Beats, tempi and downbeats are held against madmom's, also on the clips where BeatNet or essentia
has an F-measure of .8 or more with madmom. Chords are held against Chordino's, crema's and
madmom's, of which the mean is taken, and against what these three have in common; a chord that is
neither major nor minor is wrong where they have one of these. Keys are held against what two of
madmom, essentia and librosa (Krumhansl's profiles) say. In brackets, 95 % of the bootstrap over
clips; then, on how many clips.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import mir_eval
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from musicfm.datasets.annotations import Annotations, Spans, read_jams
from musicfm.tasks.chord import NO_CHORD, chord_class
from musicfm.tasks.key import key_class
from musicfm.tasks.spans import UNKNOWN, classes_at

Array = npt.NDArray[np.float64]
Scores = dict[str, float | None]
"""Of a clip, by the row and the program; None where there is nothing to compare."""

SECONDS, RATE = 75.0, 44_100
CLIPS = {
    "ardentryst": ("ardentryst/Music", "castle.ogg World_Map2.ogg theme1.ogg"),
    "asc-music": ("asc/music", "frontiers.mp3 time_to_strike.mp3"),
    "enigma-data": (
        "enigma/music",
        "menu/enigma_rag.ogg game/swamp.ogg game/across_the_ice.ogg",
    ),
    "extremetuxracer-data": ("etr/music", "race1-jt.ogg spunkyrace-ks.ogg freezingpoint.ogg"),
    "fillets-ng-data": ("fillets-ng/music", "rybky01.ogg rybky05.ogg rybky09.ogg"),
    "hyperrogue-music": (
        "../hyperrogue/music",
        "hr3-desert.ogg hr3-hell.ogg hr3-jungle.ogg hr-savino-caribbean.ogg hr-domina-mountain.ogg",
    ),
    "lordsawar-data": ("lordsawar/music", "intro.ogg battle.ogg"),
    "starfighter-data": (
        "../starfighter/music",
        "frozen_jam.ogg last_cyber_dance.ogg orbital_colossus.ogg rise_of_spirit.ogg",
    ),
    "warzone2100-music": (
        "warzone2100/music/albums",
        "original_soundtrack/track1.opus legacy_soundtrack/track9.opus "
        "aftermath_soundtrack/track20.opus",
    ),
    "wesnoth-1.16-music": (
        "wesnoth/1.16/data/core/music",
        "knalgan_theme.ogg traveling_minstrels.ogg the_dangerous_symphony.ogg love_theme.ogg "
        "wanderer.ogg elvish-theme.ogg",
    ),
    "xmoto-data": ("xmoto/Textures/Musics", "ridealong.ogg MadeiraStew.ogg speeditup.ogg"),
}
"""By package: a folder in /usr/share/games, and recordings there."""

BEATS, CHORDS, KEYS = "madmom", ("chordino", "crema", "madmom"), ("madmom", "essentia", "librosa")
CHECKS = ("beatnet", "essentia")
"""Programs of which one has to agree with madmom's beats."""
AGREES = 0.8
HOP = 0.1
"""The seconds between places at which chords are compared."""


def fetch(out: Path) -> None:
    """Writes the clips as ``PACKAGE_NAME.flac``, mono."""
    out.mkdir(parents=True, exist_ok=True)
    for package, (folder, names) in CLIPS.items():
        with tempfile.TemporaryDirectory() as work:
            subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True)
            (archive,) = Path(work).glob("*.deb")
            subprocess.run(["dpkg", "-x", archive, f"{work}/files"], check=True)
            for name in names.split():
                path = Path(work, "files/usr/share/games", folder, name).resolve()
                samples, rate = soundfile.read(path, always_2d=True, dtype="float32")
                mono = soxr.resample(samples.mean(axis=1), rate, RATE)
                if len(mono) > (SECONDS + 5.0) * RATE:
                    start = (len(mono) - round(SECONDS * RATE)) // 2
                    mono = mono[start : start + round(SECONDS * RATE)]
                mono *= min(1.0, 0.99 / max(float(np.abs(mono).max()), 1e-9))
                soundfile.write(out / f"{package}_{path.stem}.flac", mono, RATE, subtype="PCM_16")


def compare(results: Path) -> str:
    """The table, in Markdown, of the programs that have a folder in ``results``."""
    programs = sorted(path.name for path in results.iterdir() if path.is_dir())
    programs.sort(key=lambda program: program != "musicfm")
    clips = sorted(path.stem for path in (results / "musicfm").glob("*.jams"))
    rows: list[Scores] = []
    for clip in clips:
        paths = {program: results / program / f"{clip}.jams" for program in programs}
        found = {name: read_jams(path).annotations for name, path in paths.items() if path.exists()}
        rows.append({**beats_of(found), **chords_of(found), **keys_of(found)})
    titles = list(dict.fromkeys(name.partition(": ")[0] for row in rows for name in row))
    lines = [f"| {len(clips)} clips | {' | '.join(programs)} |", "|---" * (1 + len(programs)) + "|"]
    for title in titles:
        cells = [mean([row.get(f"{title}: {program}") for row in rows]) for program in programs]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beats_of(found: dict[str, Annotations]) -> Scores:
    """Beats, tempo and downbeats of a clip, beside madmom's."""
    beats = {name: a.beats for name, a in found.items() if a.beats is not None}
    if BEATS not in beats:
        return {}
    truth = beats.pop(BEATS)
    f = {name: f_measure(truth.times, each.times) for name, each in beats.items()}
    is_sure = max((f.get(name) or 0.0 for name in CHECKS), default=0.0) >= AGREES
    scores: Scores = {}
    for name, each in beats.items():
        scores[f"beats: {name}"] = f[name]
        scores[f"beats, where two agree: {name}"] = f[name] if is_sure else None
        ratio = tempo(each.times) / tempo(truth.times)
        near = [abs(ratio * factor - 1.0) <= 0.04 for factor in (1.0, 2.0, 1 / 2, 3.0, 1 / 3)]
        scores[f"tempo within 4 %: {name}"] = float(near[0])
        scores[f"the same, octaves allowed: {name}"] = float(any(near))
        if len(each.downbeats):  # essentia and librosa have none
            both = f_measure(truth.downbeats, each.downbeats)
            scores[f"downbeats, where two agree: {name}"] = both if is_sure else None
    return scores


def f_measure(truth: Array, found: Array) -> float | None:
    """Within 70 ms, after the first 5 s."""
    truth, found = mir_eval.beat.trim_beats(truth), mir_eval.beat.trim_beats(found)
    return float(mir_eval.beat.f_measure(truth, found)) if len(truth) > 1 else None


def tempo(beats: Array) -> float:
    """Beats per minute, by their median distance; NaN of fewer than three."""
    return 60.0 / float(np.median(np.diff(beats))) if len(beats) > 2 else float("nan")


def chords_of(found: dict[str, Annotations]) -> Scores:
    """Chords of a clip, beside those of other programs."""
    spans = {name: a.chords for name, a in found.items() if a.chords is not None}
    end = min((float(each.intervals[-1, 1]) for each in spans.values()), default=0.0)
    times = np.arange(HOP / 2, end, HOP)
    classes = {name: chord_classes(each, times) for name, each in spans.items()}
    scores: Scores = {}
    for name, each in classes.items():
        others = [agreement(each, classes[o]) for o in CHORDS if o != name and o in classes]
        known = [value for value in others if value is not None]
        scores[f"chords: {name}"] = float(np.mean(known)) if known else None
    if set(CHORDS) <= classes.keys():
        first, *rest = (classes[name] for name in CHORDS)
        same = np.logical_and.reduce([first == other for other in rest])
        same &= (first != UNKNOWN) & (first != NO_CHORD)
        for name, each in classes.items():
            if name not in CHORDS and same.sum() >= 50:
                scores[f"chords, where three agree: {name}"] = float((each == first)[same].mean())
    return scores


def chord_classes(spans: Spans, times: Array) -> npt.NDArray[np.int64]:
    """(times,) classes; no chord where there is none."""
    gaps = [label is None for label in spans.at(times)]
    return np.where(gaps, NO_CHORD, classes_at(spans, times, chord_class))


def agreement(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float | None:
    """The part of the places where the other program has major, minor or no chord."""
    known = truth != UNKNOWN
    return float((found == truth)[known].mean()) if known.sum() >= 10 else None


def keys_of(found: dict[str, Annotations]) -> Scores:
    """The key of a clip, where two other programs say the same."""
    keys = {name: main_key(a.keys) for name, a in found.items() if a.keys is not None}
    votes = Counter(keys[name] for name in KEYS if name in keys).most_common(1)
    if not votes or votes[0][1] < 2:
        return {}
    return {
        f"key, where two agree: {name}": float(key == votes[0][0])
        for name, key in keys.items()
        if name not in KEYS
    }


def main_key(spans: Spans) -> int:
    """The class of the key that lasts longest; UNKNOWN of none."""
    lengths = spans.total()
    return key_class(max(lengths, key=lambda label: lengths[label])) if lengths else UNKNOWN


def mean(values: Sequence[float | None]) -> str:
    """With its interval and the number of clips; "" of none."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return ""
    draws = np.random.default_rng(0).choice(known, (2_000, len(known))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{known.mean():.3f} [{low:.2f}, {high:.2f}] ({len(known)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands: dict[str, Callable[[Path], str | None]] = {"fetch": fetch, "compare": compare}
    parser.add_argument("command", choices=commands)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    said = commands[arguments.command](arguments.folder)
    if said:
        print(said)


if __name__ == "__main__":
    main()
