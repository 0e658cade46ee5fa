from pathlib import Path

import trees
from musicfm.datasets.catalogue import read_dataset

TABLE = """ID\tMANUAL KEY\tC
5061\tD# minor\t2
10981\t-\t0
16484\tA minor\t1
61578\tC minor / F# minor\t2
6105589\tC# major \t2
7217\tF minor\t2
"""


def test_excerpts_with_one_sure_key_are_used(tmp_path: Path) -> None:
    path = trees.write_text(tmp_path / "annotations" / "annotations.txt", TABLE)
    for number in (5061, 16484, 61578, 6105589):
        trees.write_audio(tmp_path / "audio" / f"{number}.LOFI.mp3")
    found = read_dataset("giantsteps_mtg", tmp_path, num_workers=1)
    keys = {item.audio.name: item.annotations.keys for item in found.tracks}
    assert {name: key.labels for name, key in keys.items() if key is not None} == {
        "5061.LOFI.mp3": ("D#:minor",),
        "6105589.LOFI.mp3": ("C#:major",),
    }
    assert found.problems[0] == f"{path}: 3 excerpts have no single key of confidence 2"
    assert "7217.LOFI.mp3 is not there" in found.problems[1]
    assert {item.track.split for item in found.tracks} <= {"train", "valid"}
