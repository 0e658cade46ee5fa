"""Some of what benchmarks/decoding.py compares, where there is an FFmpeg to compare with."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "decoding.py"


@pytest.fixture(scope="module")
def decoding() -> ModuleType:
    spec = importlib.util.spec_from_file_location("decoding", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
@pytest.mark.parametrize("codec", ["pcm_s24le", "flac", "alac", "libmp3lame", "aac", "libvorbis"])
def test_recordings_are_decoded_as_ffmpeg_decodes_them(
    decoding: ModuleType, codec: str, tmp_path: Path
) -> None:
    form = next(form for form in decoding.FORMATS if form.codec == codec and form.suffix != "wav")
    for line, is_well in decoding.rows("ffmpeg", tmp_path, [form]):
        assert is_well, line


def test_a_difference_is_seen(decoding: ModuleType) -> None:
    samples = decoding.sound(16_000, 1)[:, 0]
    found = decoding.compare(samples[7:], samples, 100)
    assert (found.extra, found.offset) == (-7, -7)
    assert found.difference == 0
    assert decoding.compare(samples * 0.9, samples, 100).difference > decoding.TOLERANCE
    changed = samples.copy()
    changed[40_000] += 0.01
    assert decoding.compare(changed, samples, 0).difference > decoding.EXACT
