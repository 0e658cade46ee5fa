from pathlib import Path

import numpy as np
import pytest

import trees
from musicfm.datasets.catalogue import read_dataset
from musicfm.datasets.magnatagatune import EMPTY, TAGS
from musicfm.errors import DataError

CLIPS = [
    "0/american_bach_soloists-j_s__bach__cantatas_volume_v-01-gleichwie_der_regen-30-59.mp3",
    "c/lisa_debenedictis-fruitless-01-cuckoo-30-59.mp3",
    "f/electric_frankenstein-sick_songs-01-action_high-117-146.mp3",
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for clip in CLIPS:
        trees.write_audio(tmp_path / "mp3" / clip)
    return tmp_path


def write_split(home: Path, tags: list[str]) -> Path:
    """As the authors publish it."""
    folder = home / "split"
    folder.mkdir()
    np.save(folder / "tags.npy", np.array(tags))
    np.save(folder / "binary.npy", np.array([[1, 0], [0, 1], [1, 1]]))
    for row, (name, clip) in enumerate(zip(("train", "valid", "test"), CLIPS, strict=True)):
        np.save(folder / f"{name}.npy", np.array([f"{row}\t{clip}"]))
    return folder


def test_the_authors_split_is_used(home: Path) -> None:
    write_split(home, ["rock", "no vocals"])
    found = read_dataset("magnatagatune", home, num_workers=1)
    assert found.problems == ()
    tags = {item.track.split: dict(item.annotations.tags or {}) for item in found.tracks}
    assert tags == {
        "train": {"rock": 1.0},
        "valid": {"no vocals": 1.0},
        "test": {"rock": 1.0, "no vocals": 1.0},
    }
    assert found.of_split("test")[0].track.artist == "electric frankenstein"


@pytest.mark.parametrize("entry", ["7\tx.mp3", "1 x.mp3", "one\tx.mp3"])
def test_damaged_split_files_are_named(home: Path, entry: str) -> None:
    folder = write_split(home, ["rock", "no vocals"])
    np.save(folder / "valid.npy", np.array([entry]))
    with pytest.raises(DataError, match=r"valid\.npy has the entry"):
        read_dataset("magnatagatune", home)
    np.save(folder / "valid.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"valid\.npy is not an array of numbers or texts"):
        read_dataset("magnatagatune", home)
    np.save(folder / "tags.npy", np.array(["rock"]))
    with pytest.raises(DataError, match=r"binary\.npy has shape \(3, 2\), and .* has 1 tags"):
        read_dataset("magnatagatune", home)
    (folder / "tags.npy").unlink()
    with pytest.raises(DataError, match=r"cannot read .*tags\.npy: No such file"):
        read_dataset("magnatagatune", home)


def test_without_it_the_published_table_is(home: Path) -> None:
    rows = [["clip_id", *TAGS, "banjo", "mp3_path"]]
    for number, clip in enumerate([*CLIPS[:2], *sorted(EMPTY), CLIPS[2]]):
        applies = ["1" if tag in ("guitar", "choral") else "0" for tag in TAGS]
        rows.append([str(number), *(["0"] * 50 if clip == CLIPS[1] else applies), "1", clip])
    text = "\n".join("\t".join(f'"{cell}"' for cell in row) for row in rows)
    trees.write_text(home / "annotations_final.csv", text)
    found = read_dataset("magnatagatune", home, num_workers=1)
    assert [(item.track.split, set(item.annotations.tags or ())) for item in found.tracks] == [
        ("train", {"guitar", "choral"}),
        ("test", {"guitar", "choral"}),
    ]
    assert len(found.problems) == len(EMPTY) == 3
    assert all("is empty in the published archive" in problem for problem in found.problems)


def test_one_of_both_is_needed(home: Path) -> None:
    with pytest.raises(DataError, match=r"neither .*split nor .*annotations_final\.csv"):
        read_dataset("magnatagatune", home)
