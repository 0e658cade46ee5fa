import codecs
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from musicfm.cli.lists import read_list
from musicfm.errors import ConfigError

NAMES = ["music/a.wav", "Zoë/歌 01.flac", "s3://bucket/#1.mp3", "#2 in the charts.ogg", "b.wav "]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\0"])
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "marked utf-16-be"],
)
def test_lists_are_read_in_any_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    for last in (end, ""):
        text = end.join(NAMES) + last
        if encoding.startswith("marked"):
            content = codecs.BOM_UTF16_BE + text.encode("utf-16-be")
        else:
            content = text.encode(encoding)
        assert read_list(write(tmp_path / "list.txt", content)) == NAMES


def test_names_with_zero_bytes_between_them_may_be_of_several_lines(tmp_path: Path) -> None:
    names = ["./a\nb.wav", " ", "./c\r", os.fsdecode(b"./caf\xe9.wav"), "a", "/b", "c"]
    content = b"\0".join(map(os.fsencode, names)) + b"\0"
    assert read_list(write(tmp_path / "x", content)) == [n for n in names if n.strip()]


def test_lists_of_one_name_and_of_none(tmp_path: Path) -> None:
    assert read_list(write(tmp_path / "x", b"a.wav")) == ["a.wav"]
    assert read_list(write(tmp_path / "x", "a.wav".encode("utf-16"))) == ["a.wav"]
    for nothing in (b"", b"\n\n", b"\0", codecs.BOM_UTF16_LE, b"#EXTM3U\n"):
        assert read_list(write(tmp_path / "x", nothing)) == []


M3U = "#EXTM3U\n#EXTINF:1,A\na.wav\n#EXTVLCOPT:x\n/music/b.wav\nhttps://x.org/c.mp3\n./#d.wav\n"
PLS = (
    "[playlist]\nNumberOfEntries=4\nFile1=a.wav\nTitle1=A=B\nLength1=-1\nfile2=/music/b.wav\n"
    "File3=https://x.org/c.mp3\nFile4=./#d.wav\nVersion=2\n"
)


@pytest.mark.parametrize("text", [M3U, M3U.replace("#EXTM3U\n", ""), PLS])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_playlists_are_relative_to_their_folder(tmp_path: Path, text: str, encoding: str) -> None:
    expected = [f"{tmp_path}/a.wav", "/music/b.wav", "https://x.org/c.mp3", f"{tmp_path}/./#d.wav"]
    for end in ("\n", "\r\n"):
        content = text.replace("\n", end).encode(encoding)
        known = ("list.PLS",) if text is PLS else ("list.m3u", "list.M3U8")
        unnamed = ("list",) if text[0] == "[" or text.startswith("#EXTM3U") else ()
        for name in (*known, *unnamed):
            assert read_list(write(tmp_path / name, content)) == expected


def test_playlists_come_through_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin: Any = io.TextIOWrapper(io.BytesIO(M3U.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_list(Path("-"))[0] == "./a.wav"


@pytest.mark.parametrize("content", [b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0", b"ID3\x03\0\0\0"])
def test_a_recording_is_no_list(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="is not a list of recordings; to embed a recording"):
        read_list(write(tmp_path / "song.wav", content))


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    content = "a.wav\n".encode("utf-16") + b"\x00"
    with pytest.raises(ConfigError, match="it begins as UTF-16-LE but does not continue so"):
        read_list(write(tmp_path / "x", content))
    with pytest.raises(ConfigError, match="cannot read the list"):
        read_list(tmp_path)
