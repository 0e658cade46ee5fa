"""Values of arguments and options that no command takes, whatever it is."""

from pathlib import Path

import pytest

from command_line import Run


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed", ""),
        ("embed", "a.wav", ""),
        ("embed", "a.wav", "--out", ""),
        ("embed", "a.wav", "--out="),
        ("embed", "--list", ""),
        ("embed", "a.wav", "--model", ""),
        ("scan", "a.wav", "--out", ""),
        ("stats", "", "--out", "x.json"),
        ("prepare", "a.wav", "--out", ""),
        ("render", "1", "--out", ""),
        ("convert", "nano", ""),
        ("pretrain", "tiny", "", "--out", "run"),
        ("probe", "key", "--data", "", "--out", "x"),
        ("evaluate", "", "--data", "x"),
        ("predict", "nano/key", ""),
        ("analyze", "", "--export", ""),
        ("table1", "--out", ""),
    ],
)
def test_empty_values_are_refused(
    run: Run, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of variables of a shell that are not set, and not the current folder."""
    monkeypatch.chdir(tmp_path)
    status, output, errors = run(*arguments)
    assert (status, output) == (1, "")
    assert "is empty; give a value (. is the current folder)" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["scan", "--fma", "PATH"],
        ["scan", "PATH/x.wav", "--out", "PATH.jsonl"],
        ["convert", "PATH", "x"],
        ["embed", "--list", "PATH"],
        ["evaluate", "PATH", "--data", "PATH"],
        ["render", "1", "--soundfont", "PATH", "--out", "x"],
    ],
)
@pytest.mark.parametrize("path", ["x" * 300, "./loop/x", "folder"])
def test_paths_that_lead_nowhere_are_one_sentence(
    run: Run, command: list[str], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("neither a list nor a model\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    status, _, errors = run(*(part.replace("PATH", path) for part in command))
    assert status == 1
    assert errors.count("\n") <= 2
    assert "error: " in errors or "failed: " in errors


@pytest.mark.parametrize("out", ["-", "s3://bucket/results", "file:///tmp/results"])
@pytest.mark.parametrize("command", [("embed", "a.wav", "--out"), ("convert", "nano")])
def test_results_are_written_to_this_machine(
    run: Run, command: tuple[str, ...], out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, errors = run(*command, out)
    assert (status, "has to be a path on this machine, such as ./results" in errors) == (1, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spelling", [["--list=~/x"], ["--list", "~/x"], ["--list=~"]])
def test_the_home_folder_is_known(
    run: Run, spelling: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"cannot read the list {tmp_path}" in run("embed", *spelling)[2]
    assert "cannot read the list a~/x" in run("embed", "--list", "a~/x")[2]
    assert "cannot read the list ~x: No such file" in run("embed", "--list", "~x")[2]


def test_a_current_folder_that_is_gone_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    status, _, errors = run("embed", "a.wav")
    assert (status, "the current folder is not there any more" in errors) == (1, True)
