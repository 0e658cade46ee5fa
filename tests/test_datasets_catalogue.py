from pathlib import Path

import pytest

from musicfm.datasets.catalogue import DATASETS, describe, read_dataset
from musicfm.datasets.splits import Splitting, split
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import ConfigError, DataError

PAGE = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
TASKS = {"beat", "chord", "structure", "key", "tagging"}


@pytest.mark.parametrize("name", DATASETS)
def test_all_that_is_known_is_told(name: str) -> None:
    dataset = DATASETS[name]
    text = describe(name)
    assert text.startswith(f"{name}: {dataset.title}\n")
    words = " ".join(text.split())
    for part in (dataset.source, dataset.size, dataset.licence, dataset.layout, dataset.splits):
        assert part
        assert part in words
    assert dataset.tasks
    assert set(dataset.tasks) <= TASKS
    assert max(map(len, text.splitlines())) <= 100


def test_the_page_has_every_dataset() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {', '.join(data.tasks)} | {data.tracks} | {data.licence} | {data.splits} |"
        for name, data in DATASETS.items()
    ]


def test_names_and_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no dataset 'gzan'; there are gtzan, ballroom"):
        read_dataset("gzan", tmp_path)
    with pytest.raises(ConfigError, match="there is no dataset 'gzan'"):
        describe("gzan")
    with pytest.raises(DataError, match=r"absent is not a folder; harmonix should be there: the"):
        read_dataset("harmonix", tmp_path / "absent")


def test_the_players_of_guitarset_are_split_as_it_says() -> None:
    how = DATASETS["guitarset"].splitting
    assert isinstance(how, Splitting)
    players = [
        Track(f"{n}.wav", 1.0, 1, 1, 1, 1, f"{n:064x}", artist=f"player 0{n}") for n in range(6)
    ]
    splits = [track.split for track in split(Manifest("x", players), how)]
    assert splits == ["train", "test", "train", "valid", "train", "train"]
