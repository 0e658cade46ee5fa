"""Makes labels of the beats that a model is sure of, in music that nobody has labelled.

    musicfm analyze MUSIC --out ANALYSED --no-page
    python runs/sure_beats.py MUSIC ANALYSED OUT

OUT gets a link to each recording that is used, and a JAMS file beside it with the beats and nothing
else, so that `musicfm train` takes OUT as songs with labels. A recording is used if its beats have
a mean confidence of CONFIDENCE, if STEADY of the distances between them are within 6 % of their
median, and if its tempo is usual: then the decoder has filled in the beats between those that the
model was sure of.
"""

import json
import sys
from pathlib import Path

import numpy as np

CONFIDENCE, STEADY = 0.9, 0.7  # nano's own labels: 0.5, before confidences of beats were fitted
BEATS_PER_MINUTE = 50.0, 190.0


def is_sure(beats: list[dict[str, float]]) -> bool:
    """Whether observations of JAMS's namespace beat are to be used."""
    if len(beats) < 8:
        return False
    distances = np.diff([beat["time"] for beat in beats])
    median = float(np.median(distances))
    slowest, fastest = BEATS_PER_MINUTE
    return (
        float(np.mean([beat["confidence"] for beat in beats])) >= CONFIDENCE
        and float(np.mean(np.abs(distances / median - 1.0) < 0.06)) >= STEADY
        and slowest <= 60.0 / median <= fastest
    )


def main(music: Path, analysed: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(analysed.rglob("*.jams")):
        jams = json.loads(path.read_text())
        jams["annotations"] = [a for a in jams["annotations"] if a["namespace"] == "beat"]
        recording = (music / path.relative_to(analysed)).with_suffix(".flac")
        if jams["annotations"] and is_sure(jams["annotations"][0]["data"]):
            name = "_".join(path.relative_to(analysed).with_suffix("").parts)
            link = out / f"{name}.flac"
            link.unlink(missing_ok=True)
            link.symlink_to(recording.resolve())
            (out / f"{name}.jams").write_text(json.dumps(jams))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
