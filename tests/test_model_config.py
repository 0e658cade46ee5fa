from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from musicfm.errors import ConfigError
from musicfm.model.config import (
    PRESETS,
    Config,
    ConformerConfig,
    FrontEndConfig,
    KMeansConfig,
    MelConfig,
    ModelConfig,
    PitchConfig,
    RandomProjectionConfig,
    TransformerConfig,
    preset,
)
from musicfm.model.masking import MaskingConfig
from musicfm.model.musicfm import MusicFM

TINY = preset("tiny")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"contxt_seconds": 3.0}, "ModelConfig has no key 'contxt_seconds'; .* 'context_seconds'"),
        ({"hop_lenght": 1}, "no key 'hop_lenght'; did you mean 'hop_length'"),
        ({"mel": {"hop": 1}}, "no key 'hop' in mel; did you mean"),
        ({"encoder": {"kind": "conformer", "dept": 1}}, "'dept' in encoder.* 'depth'"),
        ({"encoder": {"kind": "lstm"}}, "'encoder' is .*'lstm'.* 'conformer', 'transformer'"),
        ({"encoder": {"depth": 1}}, "'encoder' is .*'kind'"),
        ({"mel": {"hop_length": 240.5}}, "'hop_length' in mel is 240.5: .* integer"),
        ({"mel": {"hop_length": "240"}}, "'hop_length' in mel is '240': .* integer"),
        ({"mel": {"hop_length": True}}, "'hop_length' in mel is True: .* integer"),
        ({"mel": {"n_fft": 0}}, "'n_fft' in mel is 0: .* greater than 0"),
        ({"mel": {"mean": float("nan")}}, "'mean' in mel is nan: .* finite"),
        ({"mel": {"std": 0}}, "'std' in mel is 0"),
        ({"mel": {"n_mels": 126}}, "mel.n_mels is 126; choose a multiple of 4"),
        ({"mel": 3}, "'mel' is 3"),
        ({"mel": object()}, "not JSON serializable; give plain JSON values"),
        ({"front_end": {"time_strides": [2, 3]}}, "'1' in front_end.time_strides is 3"),
        ({"encoder": {"kind": "conformer", "conv_kernel": 4}}, "conv_kernel is 4; .* odd"),
        ({"encoder": {"kind": "conformer", "num_heads": 3}}, "dim 1024 does not give 3 heads"),
        ({"encoder": {"kind": "conformer", "dropout": 1.0}}, "'dropout' .* is 1.0"),
        ({"context_seconds": 0.05}, "0.05 is not a whole number of frames of 960 samples"),
        ({"context_seconds": 0.04}, "0.04 is shorter than the STFT"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said(fields: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(fields)


def test_python_arguments_are_checked_as_json_is() -> None:
    with pytest.raises(ConfigError, match="MelConfig has no key 'hop'; did you mean"):
        MelConfig(**{"hop": 3})
    with pytest.raises(ConfigError, match=r"'depth' is '3': .* integer"):
        TINY.encoder.replace(depth="3")
    with pytest.raises(ConfigError, match="frames of 960"):
        TINY.replace(context_seconds=30.001)


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TINY.mel.n_fft = 3
    assert hash(TINY) == hash(preset("tiny"))


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = preset(name)
    assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize("seconds", [1.16, 0.28, 29.96, 5.0])
def test_any_whole_number_of_frames_is_a_context(seconds: float) -> None:
    config = TINY.replace(context_seconds=seconds)
    assert config.context_samples == round(seconds * 25) * 960


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no preset 'fm77'; did you mean 'fm7'"):
        preset("fm77")


# Table 1 of the paper, and what follows from it. FM8 counts 611M, not the paper's 660M.
@pytest.mark.parametrize(
    ("name", "rate", "context", "kind", "quantizer", "parameters"),
    [
        ("fm1", 75, 5, "transformer", "kmeans", 325_000_000),
        ("fm2", 75, 5, "transformer", "random_projection", 328_000_000),
        ("fm3", 75, 30, "transformer", "random_projection", 328_000_000),
        ("fm4", 75, 5, "conformer", "random_projection", 320_541_696),
        ("fm5", 75, 30, "conformer", "random_projection", 320_541_696),
        ("fm6", 50, 30, "conformer", "random_projection", 320_541_696),
        ("fm7", 25, 30, "conformer", "random_projection", 320_541_696),
        ("fm8", 25, 30, "conformer", "random_projection", 320_541_696 + 12 * 24_175_616),
        ("fm9", 25, 30, "conformer", "random_projection", 320_541_696),
    ],
)
def test_the_rows_of_table_1(
    name: str, rate: int, context: int, kind: str, quantizer: str, parameters: int
) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = MusicFM(config)
    found = sum(parameter.numel() for parameter in model.parameters())
    exact = kind == "conformer"
    assert found == (parameters if exact else pytest.approx(parameters, rel=0.02))
    assert (config.frame_rate, config.context_seconds) == (rate, context)
    assert (config.encoder.kind, config.quantizer.kind) == (kind, quantizer)
    assert config.num_frames(config.context_samples) == rate * context
    assert config.num_tokens(config.context_samples) == rate * context


@pytest.mark.parametrize(
    ("samples", "frames", "tokens"),
    [(239, 0, 0), (240, 1, 0), (959, 1, 0), (960, 1, 1), (961, 1, 1), (1_200, 2, 1)],
)
def test_a_partial_frame_counts_and_a_partial_token_does_not(
    samples: int, frames: int, tokens: int
) -> None:
    assert (TINY.num_frames(samples), TINY.num_tokens(samples)) == (frames, tokens)


# ------------------------------------------------------- changing any field changes the model

SMALL = TINY.replace(
    front_end=FrontEndConfig(conv_dim=4),
    encoder=ConformerConfig(dim=16, depth=1, num_heads=2, ffn_dim=8, conv_kernel=3),
    quantizer=RandomProjectionConfig(codebook_size=64),
)
BASES = (
    SMALL,
    SMALL.replace(encoder=TransformerConfig(dim=16, depth=1, num_heads=2, ffn_dim=8)),
    SMALL.replace(quantizer=KMeansConfig(codebook_size=8)),
    SMALL.replace(pitch=PitchConfig(num_semitones=12, conv_dim=2)),
)
CHANGES: dict[str, Any] = {  # where doubling the number is not possible
    "time_strides": (2, 1),
    "kind": None,
    "conv_kernel": 5,
    "dropout": 0.3,
    "seed": 7,
    "pitch_codebooks": 1,
}


def every_field() -> Iterator[Any]:
    """(configuration, changed configuration) for each field of each nested configuration."""
    for base in BASES:
        for name, value in base:
            if value is None:
                continue
            if not isinstance(value, Config):
                changed = base.replace(**{name: CHANGES.get(name, 2 * value)})
                yield pytest.param(base, changed, id=name)
                continue
            for field, inner in value:
                if field == "kind":  # the name of the class: changing it gives another class
                    continue
                new = value.replace(**{field: CHANGES.get(field, 2 * inner)})
                part = f"{type(value).__name__}.{field}"
                yield pytest.param(base, base.replace(**{name: new}), id=part)


FIELDS = list(every_field())


def essence(config: ModelConfig) -> tuple[Any, ...]:
    """All that a configuration decides: shapes, outputs, training outputs, context."""
    torch.manual_seed(0)
    model = MusicFM(config)
    if isinstance(config.quantizer, KMeansConfig):
        centroids = model.get_buffer("quantizer.centroids")
        centroids.copy_(torch.randn(centroids.shape))
    if model.pitch is not None:  # begins as nothing
        torch.nn.init.normal_(model.pitch.linear.weight)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    waveform = 0.1 * torch.randn(1, 24_000, generator=torch.Generator().manual_seed(1))
    heard = model.eval()(waveform, layers=[-1]).hidden_states[0]
    torch.manual_seed(0)
    trained = model.train()(waveform, layers=[-1]).hidden_states[0]
    tokens = model.tokenize(waveform)
    return shapes, trained.tolist(), heard.tolist(), tokens.tolist(), config.context_samples


def test_every_field_is_tried() -> None:
    """A new nested configuration must be in BASES, or its fields go untested."""
    reached = {type(value) for base in BASES for _, value in base}
    for field in ModelConfig.model_fields.values():
        options = get_args(field.annotation) or (field.annotation,)
        assert {option for option in options if isinstance(option, type)} <= reached
    assert len({param.id for param in FIELDS}) > 20


@pytest.mark.parametrize(("config", "changed"), FIELDS)
def test_changing_any_field_changes_the_model(config: ModelConfig, changed: ModelConfig) -> None:
    assert essence(config) == essence(config)
    assert essence(config) != essence(changed)


def test_noise_and_blocks_follow_the_masking_configuration() -> None:
    with pytest.raises(ConfigError, match="no key 'block_second'"):
        MaskingConfig(**{"block_second": 0.4})
    with pytest.raises(ConfigError, match=r"'probability' is 1\.5"):
        MaskingConfig(probability=1.5)


def test_dropout_acts_in_training_alone() -> None:
    shapes, trained, *rest = essence(SMALL)
    other_shapes, other_trained, *other_rest = essence(
        SMALL.replace(encoder=SMALL.encoder.replace(dropout=0.3))
    )
    assert trained != other_trained
    assert (shapes, rest) == (other_shapes, other_rest)
