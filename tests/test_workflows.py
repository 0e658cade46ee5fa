"""What GitHub is told to run, read: it names what there is, and may do no more than it has to."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("audit", "docs", "release", "test")


def read(name: str) -> dict[Any, Any]:
    content = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in read(name)["jobs"].values():
        yield from job.get("steps", [])


def commands(name: str) -> str:
    return "\n".join(step["run"] for step in steps(name) if "run" in step)


def supported_pythons() -> list[str]:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "classifiers"
    ]
    return re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))


def test_these_are_all() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"{name}.yml" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_well_formed(name: str) -> None:
    workflow = read(name)
    assert workflow["name"] == name
    assert workflow[True]  # "on", which YAML 1.1 takes for a truth value
    for job in workflow["jobs"].values():
        assert "uses" in job or job["runs-on"] == "ubuntu-latest"
        assert all(("uses" in step) != ("run" in step) for step in job.get("steps", []))
        for other in [job.get("needs", [])]:
            assert {other} if isinstance(other, str) else {*other} <= workflow["jobs"].keys()


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_targets_and_files_that_there_are(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {*re.findall(r"^([a-z-]+):(?!=)", makefile, re.M)}
    assert {*re.findall(r"\bmake ([a-z-]+)", commands(name))} <= targets
    for file in re.findall(r"\S+\.(?:lock|yml)\b|constraints\.txt", commands(name)):
        assert (ROOT / file).is_file(), file


@pytest.mark.parametrize("name", NAMES)
def test_actions_have_a_version(name: str) -> None:
    for step in steps(name):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"])


def test_the_pythons_of_the_package_are_tested() -> None:
    pythons = supported_pythons()
    assert read("test")["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons
    assert "make test-all" in commands("test")
    for name in NAMES:
        named = [
            str(step["with"]["python-version"])
            for step in steps(name)
            if "with" in step and "python-version" in step["with"]
        ]
        assert {*named} <= {*pythons, "${{ matrix.python }}"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == f">={pythons[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_only_what_publishes_may_write(name: str) -> None:
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    allowed = {
        ("docs", "deploy"): {"pages": "write", "id-token": "write"},
        ("release", "publish"): {"id-token": "write"},
        ("release", "announce"): {"contents": "write"},
    }
    for job, content in workflow["jobs"].items():
        assert content.get("permissions") == allowed.get((name, job))


def test_a_release_is_tested_built_and_of_the_version_of_its_tag() -> None:
    jobs = read("release")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    assert "workflow_call" in read("test")[True]
    assert {*jobs["publish"]["needs"]} == {"test", "build"}
    assert jobs["announce"]["needs"] == "publish"
    assert "musicfm.__version__" in commands("release")
    assert "make build" in commands("release")


def test_no_dependency_escapes_the_audit() -> None:
    audits = re.findall(r"^pip-audit (.*)$", commands("audit"), re.M)
    assert all("--strict" in audit for audit in audits)
    assert any("--require-hashes -r requirements-ci.lock" in audit for audit in audits)
