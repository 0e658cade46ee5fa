"""What GitHub is told to run, read: it names what there is, and may do no more than it has to."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in read(path)["jobs"].values():
        yield from job.get("steps", [])


@each
def test_commands_name_targets_and_files_that_there_are(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z-]+):(?!=)", makefile, re.M)}
    commands = "\n".join(step.get("run", "") for step in steps(path))
    assert {*re.findall(r"\bmake ([a-z-]+)", commands)} <= targets
    for file in re.findall(r"\S+\.(?:lock|yml)\b|constraints\.txt", commands):
        assert (ROOT / file).is_file(), file


def test_the_pythons_of_the_package_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    job = read(ROOT / ".github" / "workflows" / "test.yml")["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == pythons
    assert any(step.get("run") == "make test-all" for step in job["steps"])
    assert project["requires-python"] == f">={pythons[0]}"


@each
def test_only_what_publishes_may_write(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    allowed = {
        ("docs", "deploy"): {"pages": "write", "id-token": "write"},
        ("release", "publish"): {"id-token": "write"},
        ("release", "announce"): {"contents": "write"},
    }
    for job, content in workflow["jobs"].items():
        assert content.get("permissions") == allowed.get((path.stem, job))
