from pathlib import Path

import pytest

from musicfm.datasets.catalogue import DATASETS, describe, read_dataset
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


def test_the_page_has_every_dataset_with_its_tasks() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    expected = [f"| `{name}` | {', '.join(data.tasks)} |" for name, data in DATASETS.items()]
    assert [row[: len(start)] for row, start in zip(rows, expected, strict=True)] == expected


def test_names_and_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no dataset 'gzan'; there are gtzan, ballroom"):
        read_dataset("gzan", tmp_path)
    with pytest.raises(ConfigError, match="there is no dataset 'gzan'"):
        describe("gzan")
    with pytest.raises(DataError, match=r"absent is no folder; harmonix should be there: the rep"):
        read_dataset("harmonix", tmp_path / "absent")
