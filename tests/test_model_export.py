import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import Tensor

import recipe
from command_line import Run
from musicfm.audio import reading
from musicfm.errors import ConfigError, OutputError
from musicfm.model import checkpoint, export
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    MelConfig,
    TransformerConfig,
)
from musicfm.model.export import export_onnx
from musicfm.model.musicfm import MusicFM
from test_model_inference import DEMO_SONG, LENGTHS, largest_difference, trained

SMALL = recipe.TINY.replace(
    front_end=FrontEndConfig(conv_dim=8, time_strides=(2, 1)),
    encoder=ConformerConfig(dim=32, depth=1, num_heads=2, ffn_dim=64),
)
MODELS: dict[str, Callable[[], MusicFM]] = {
    "tiny": lambda: trained(recipe.TINY),
    "small, 50 Hz": lambda: trained(SMALL),
    "transformer, 75 Hz": lambda: trained(
        SMALL.replace(
            mel=MelConfig(hop_length=320),
            front_end=FrontEndConfig(conv_dim=8, time_strides=(1, 1)),
            encoder=TransformerConfig(dim=32, depth=2, num_heads=2, ffn_dim=64),
        )
    ),
    "small, 50 Hz, with pitch": lambda: trained(SMALL.replace(pitch=recipe.PITCH)),
    "nano": lambda: MusicFM.from_pretrained("nano"),
}


@dataclass
class Exported:
    """A model, and its file with all layers."""

    model: MusicFM
    path: Path

    def __post_init__(self) -> None:
        self.session = open_onnx(self.path)

    def __call__(self, waveform: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """Hidden states, and the frames of each clip."""
        given = {"waveform": waveform.numpy(), "lengths": lengths.numpy()}
        *states, num_frames = map(torch.from_numpy, self.session.run(None, given))
        return states, num_frames


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """One of the models, exported when it is first asked for: that takes seconds."""

    @cache
    def export_once(name: str) -> Exported:
        model, path = MODELS[name](), tmp_path_factory.mktemp("onnx") / "model.onnx"
        export_onnx(model, path, layers=range(model.num_layers))
        return Exported(model, path)

    return export_once


@pytest.fixture(params=MODELS)
def exported(request: pytest.FixtureRequest, export_once: Callable[[str], Exported]) -> Exported:
    return export_once(request.param)


@pytest.fixture
def small(export_once: Callable[[str], Exported]) -> Exported:
    return export_once("small, 50 Hz")


# ------------------------------------------------------------------------------- parity


@pytest.mark.compiles
def test_it_gives_what_the_model_gives(exported: Exported) -> None:
    """At every layer and frame of a padded batch, whatever lies in the padding; and alone."""
    clips = torch.from_numpy(recipe.waveform(3, len(LENGTHS), max(LENGTHS)))
    lengths = torch.tensor(LENGTHS)
    with torch.no_grad():
        expected = exported.model(clips, lengths)
    clips[torch.arange(clips.shape[1]) >= lengths[:, None]] = torch.nan
    found, num_frames = exported(clips, lengths)
    assert torch.equal(num_frames, expected.num_frames)
    for index, (length, frames) in enumerate(zip(LENGTHS, num_frames, strict=True)):
        alone, _ = exported(clips[index : index + 1, :length], lengths[index : index + 1])
        for layer, state in enumerate(found):
            inside = state[index, :frames]
            assert largest_difference(inside, expected.hidden_states[layer][index, :frames]) <= 1e-4
            assert largest_difference(inside, alone[layer][0]) <= 1e-4


@pytest.mark.compiles
def test_it_takes_clips_of_any_length(exported: Exported) -> None:
    """Also such as end within a frame, anywhere."""
    step = exported.model.config.samples_per_frame // 7
    for number, samples in enumerate(range(1_025, 1_025 + 20 * step, step)):
        clips = torch.from_numpy(recipe.waveform(number, 1 + number % 3, samples))
        lengths = torch.full((len(clips),), samples)
        found, num_frames = exported(clips, lengths)
        with torch.no_grad():
            expected = exported.model(clips, lengths)
        assert torch.equal(num_frames, expected.num_frames)
        for state, reference in zip(found, expected.hidden_states, strict=True):
            assert state.shape == reference.shape
            assert largest_difference(state, reference) <= 1e-4


@pytest.mark.compiles
def test_on_music_too(export_once: Callable[[str], Exported]) -> None:
    """In a whole context. Without layer 0, which hears how either transform rounds silent bands."""
    exported = export_once("nano")
    config = exported.model.config
    clip = torch.from_numpy(reading.load(DEMO_SONG, config.sample_rate)[: config.context_samples])
    found, _ = exported(clip[None], torch.tensor([len(clip)]))
    with torch.no_grad():
        expected = exported.model(clip[None]).hidden_states
    for state, reference in zip(found[1:], expected[1:], strict=True):
        assert largest_difference(state, reference) <= 1e-4


@pytest.mark.compiles
def test_it_is_of_the_model_in_float32_and_eval_mode(tmp_path: Path, music: Tensor) -> None:
    model = trained(SMALL).bfloat16().train()
    before = checkpoint.fingerprint(model)
    export_onnx(model, tmp_path / "model.onnx", layers=[1])
    assert checkpoint.fingerprint(model) == before
    assert model.training
    lengths = torch.full((len(music),), music.shape[1])
    (found,), _ = Exported(model, tmp_path / "model.onnx")(music, lengths)
    with torch.no_grad():
        (expected,) = model.float().eval()(music, layers=[1]).hidden_states
    assert largest_difference(found, expected) <= 1e-4


# ----------------------------------------------------------------------------- the file


@pytest.mark.compiles
def test_the_file_says_what_it_is(small: Exported) -> None:
    inputs, outputs = small.session.get_inputs(), small.session.get_outputs()
    assert {i.name: (i.type, i.shape) for i in inputs} == {
        "waveform": ("tensor(float)", ["batch", "samples"]),
        "lengths": ("tensor(int64)", ["batch"]),
    }
    assert {o.name: (o.type, o.shape) for o in outputs} == {
        "layer_0": ("tensor(float)", ["batch", "frames", 32]),
        "layer_1": ("tensor(float)", ["batch", "frames", 32]),
        "num_frames": ("tensor(int64)", ["batch"]),
    }
    metadata = small.session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["config"]) == SMALL.to_dict()
    assert json.loads(metadata["layers"]) == [0, 1]
    assert metadata["fingerprint"] == checkpoint.fingerprint(small.model)


@pytest.mark.compiles
def test_it_says_nothing_of_the_machine_that_wrote_it(small: Exported) -> None:
    assert str(Path(export.__file__).parent).encode() not in small.path.read_bytes()


@pytest.mark.compiles
def test_weights_that_do_not_fit_into_it_lie_beside(
    small: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, music: Tensor
) -> None:
    monkeypatch.setattr(export, "_graph", lambda *_: onnx_ir.load(small.path))
    monkeypatch.setattr(export, "_MOST_BYTES", 0)
    (tmp_path / "model.onnx").write_text("what was here before")
    export_onnx(small.model, tmp_path / "model.onnx", layers=[0, 1])
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert {path.name for path in moved.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert (moved / "model.onnx").stat().st_size < (moved / "model.onnx.data").stat().st_size
    lengths = torch.full((len(music),), music.shape[1])
    found, _ = Exported(small.model, moved / "model.onnx")(music, lengths)
    expected, _ = small(music, lengths)
    assert all(map(torch.equal, found, expected))


def test_what_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_graph", full)
    (tmp_path / "model.onnx").write_text("what was here before")
    with pytest.raises(OutputError, match=r"cannot write .*model\.onnx: No space left on device"):
        export_onnx(trained(SMALL), tmp_path / "model.onnx", layers=[1])
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "what was here before"


# ------------------------------------------------------------------------------- errors


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no layer 4; this model has layers 0 to 1"):
        export_onnx(trained(SMALL), tmp_path / "model.onnx", layers=[4])


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot export to .*folder: give a file .* in \.onnx"):
        export_onnx(trained(SMALL), tmp_path / "folder", layers=[1])


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*; choose another folder"):
        export_onnx(trained(SMALL), tmp_path / "file" / "model.onnx", layers=[1])


def test_without_onnx_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'musicfm\[export\]'"):
        export_onnx(trained(SMALL), tmp_path / "model.onnx", layers=[1])


# ------------------------------------------------------------------------- how it is used


@pytest.mark.compiles
def test_a_model_is_exported_no_deeper_than_asked(
    run: Run, published_tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "model.onnx"
    status, _, errors = run("export", published_tiny, "--out", out, "--layer", "1,0")
    assert status == 0, errors
    assert errors == f"wrote {out}\n"
    graph = onnx.load(out).graph
    assert [output.name for output in graph.output] == ["layer_1", "layer_0", "num_frames"]
    weights = {tensor.name for tensor in graph.initializer}
    assert any("encoder.blocks.0." in name for name in weights)
    assert not any("encoder.blocks.1." in name or "head" in name for name in weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "m.onnx", "--layer", "9"), "no layer 9; this model has layers 0 to 3"),
        (("--out", "m.onnx", "--layer", "x"), "--layer is 'x'; give a number, several (3,7)"),
        (("--out", "m.pt"), "cannot export to m.pt: give a file that ends in .onnx"),
        (("--out", "."), "cannot export to .: give a file that ends in .onnx"),
    ],
)
def test_bad_input_is_one_sentence(
    run: Run, published_tiny: Path, options: tuple[str, ...], message: str
) -> None:
    status, _, errors = run("export", published_tiny, *options)
    assert status == 1
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
