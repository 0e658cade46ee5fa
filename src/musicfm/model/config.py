"""Typed, strict configurations and the presets of the paper's Table 1.

What a model is, is written once, here. Rates, strides and sizes that follow from other fields are
properties, never fields, so two of them cannot disagree. Changing any field changes the model.
"""

import difflib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from musicfm.errors import ConfigError

Positive = Annotated[int, Field(gt=0)]
# Beyond what any model has: a damaged file must not ask for all the memory, or build for ever.
Width = Annotated[int, Field(gt=0, le=1 << 20)]
Depth = Annotated[int, Field(gt=0, le=1_000)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class Config(BaseModel):
    """A frozen configuration; an unknown key or a wrong type is a :class:`ConfigError`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigError(_explain(type(self), error)) from None

    # Tells pydantic that nested configurations need not go through the method above, which would
    # turn their errors into nested sentences.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Builds the configuration from plain JSON values. Raises ConfigError."""
        try:
            return cls.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from None
        except (TypeError, RecursionError) as error:
            raise ConfigError(f"{cls.__name__}: {error}; give plain JSON values") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``from_dict`` is its inverse."""
        return self.model_dump(mode="json")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed and everything validated again."""
        return type(self)(**{**dict(self), **changes})


def _explain(config: type[Config], error: ValidationError) -> str:
    """One sentence for the first thing wrong, with the nearest known key if one is unknown."""
    first = error.errors(include_url=False)[0]
    *path, key = [str(part) for part in first["loc"]] or [""]
    where = f" in {'.'.join(path)}" if path else ""
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _keys_of(config), n=1, cutoff=0.0)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{config.__name__} has no key '{key}'{where}{hint}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" or not key:  # our own sentence, which names the field
        return f"{config.__name__}: {message}"
    return f"{config.__name__}: '{key}'{where} is {first['input']!r}: {message}"


def _keys_of(config: type[Config]) -> set[str]:
    """All keys of a configuration and of the configurations inside it."""
    keys: set[str] = set()
    for name, field in config.model_fields.items():
        keys.add(name)
        inner = getattr(field.annotation, "__args__", (field.annotation,))
        for part in inner:
            if isinstance(part, type) and issubclass(part, Config):
                keys |= _keys_of(part)
    return keys


class MelConfig(Config):
    """The log-mel spectrogram and its normalisation.

    ``mean`` and ``std`` are one global scalar each, in dB, over the training collection; the
    defaults are those of the Million Song Dataset checkpoint.
    """

    sample_rate: Positive = 24_000
    n_fft: Annotated[int, Field(gt=0, le=1 << 16)] = 2_048
    hop_length: Positive = 240
    n_mels: Annotated[int, Field(gt=0, le=1 << 10)] = 128
    mean: float = 6.768444971712967
    std: Annotated[float, Field(gt=0.0)] = 18.417922652295623

    @property
    def rate(self) -> float:
        """Mel frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def min_samples(self) -> int:
        """The shortest waveform: a frame, and more than the half window that the STFT reflects."""
        return max(self.n_fft // 2 + 1, self.hop_length)


class PitchConfig(Config):
    """A second, finer spectrogram of pitches, and the small network that reads it.

    A mel band is wider than a semitone below 448 Hz. Here an STFT of ``n_fft`` samples is taken
    once per frame of the encoder, and its power read at ``bands_per_semitone`` places per semitone
    from ``lowest_hertz`` on. ``mean`` and ``std``, in dB, normalise it as those of the mel do.
    """

    n_fft: Annotated[int, Field(gt=0, le=1 << 16)] = 8_192
    lowest_hertz: Annotated[float, Field(gt=0.0)] = 32.703195662574764  # C1
    num_semitones: Annotated[int, Field(gt=0, le=120)] = 84
    bands_per_semitone: Annotated[int, Field(gt=0, le=12)] = 3
    conv_dim: Width = 16
    mean: float = 12.7
    std: Annotated[float, Field(gt=0.0)] = 13.0

    @property
    def num_bands(self) -> int:
        """Bands of a frame."""
        return self.num_semitones * self.bands_per_semitone

    @property
    def highest_hertz(self) -> float:
        """Where the last semitone ends."""
        return self.lowest_hertz * 2.0 ** (self.num_semitones / 12)


class FrontEndConfig(Config):
    """Two residual convolution blocks; both halve the frequency axis, ``time_strides`` is free."""

    conv_dim: Width = 512
    time_strides: tuple[Literal[1, 2], Literal[1, 2]] = (2, 2)


class _EncoderConfig(Config):
    """What both encoders share."""

    dim: Width = 1_024
    depth: Depth = 12
    num_heads: Width = 16
    ffn_dim: Width = 4_096
    dropout: Probability = 0.1

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.dim % (2 * self.num_heads):
            raise ValueError(
                f"dim {self.dim} does not give {self.num_heads} heads of an even width; "
                "choose a multiple of twice num_heads"
            )
        return self


class ConformerConfig(_EncoderConfig):
    """Conformer blocks (Gulati et al., 2020) with rotary positions, as in MusicFM."""

    kind: Literal["conformer"] = "conformer"
    conv_kernel: Width = 31

    @model_validator(mode="after")
    def _check_kernel(self) -> Self:
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel is {self.conv_kernel}; choose an odd number")
        return self


class TransformerConfig(_EncoderConfig):
    """Pre-norm Transformer blocks, the paper's BERT rows.

    The paper says no more than "BERT"; the depth of 24 is MERT-330M's. Positions are rotary,
    placed as in the Conformer: that choice is ours.
    """

    kind: Literal["transformer"] = "transformer"
    depth: Depth = 24


class RandomProjectionConfig(Config):
    """Frozen random projections and codebooks (BEST-RQ, Chiu et al., 2022).

    Codebook ``i`` is drawn from ``seed + i``. The last ``pitch_codebooks`` measure pitch classes
    instead of levels: which notes sound, which a random projection of levels hardly tells.
    """

    kind: Literal["random_projection"] = "random_projection"
    num_codebooks: Depth = 1
    codebook_size: Width = 4_096
    codebook_dim: Width = 16
    seed: Annotated[int, Field(ge=0)] = 142
    pitch_codebooks: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_pitch(self) -> Self:
        if self.pitch_codebooks > self.num_codebooks:
            raise ValueError(
                f"pitch_codebooks is {self.pitch_codebooks} of {self.num_codebooks} "
                "codebooks; choose no more than there are"
            )
        return self


class KMeansConfig(Config):
    """Centroids fitted to stacked mel frames."""

    kind: Literal["kmeans"] = "kmeans"
    num_codebooks: Depth = 1
    codebook_size: Width = 1_024


class ModelConfig(Config):
    """Everything that defines a model, and nothing that only its training needs."""

    mel: MelConfig = MelConfig()
    front_end: FrontEndConfig = FrontEndConfig()
    pitch: PitchConfig | None = None
    """A second input, of pitches; None: the mel alone, as the published models have it."""
    encoder: Annotated[ConformerConfig | TransformerConfig, Field(discriminator="kind")] = (
        ConformerConfig()
    )
    quantizer: Annotated[RandomProjectionConfig | KMeansConfig, Field(discriminator="kind")] = (
        RandomProjectionConfig()
    )
    context_seconds: Annotated[float, Field(gt=0.0, le=86_400.0)] = 30.0
    """The longest clip seen in training, hence the window of the embedder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mel.n_mels % 4:
            raise ValueError(f"mel.n_mels is {self.mel.n_mels}; choose a multiple of 4")
        if self.pitch is not None and self.pitch.highest_hertz > self.mel.sample_rate / 2:
            raise ValueError(
                f"pitch reaches {self.pitch.highest_hertz:.0f} Hz, and audio of "
                f"{self.mel.sample_rate} Hz holds half of its rate at most; choose fewer semitones"
            )
        frames = self.context_seconds * self.frame_rate
        if abs(frames - round(frames)) > 1e-6:
            raise ValueError(
                f"context_seconds {self.context_seconds} is not a whole number of frames "
                f"of {self.samples_per_frame} samples"
            )
        if self.context_samples < self.mel.min_samples:
            raise ValueError(f"context_seconds {self.context_seconds} is shorter than the STFT")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models without pitch keep the configuration and the fingerprint they always had."""
        fields: dict[str, Any] = serialize(self)
        if self.pitch is None:
            del fields["pitch"]
        return fields

    @property
    def sample_rate(self) -> int:
        """Samples per second of the model's input."""
        return self.mel.sample_rate

    @property
    def token_stack(self) -> int:
        """Mel frames per token, and per frame of the encoder."""
        return math.prod(self.front_end.time_strides)

    @property
    def samples_per_frame(self) -> int:
        """Audio samples per frame of the encoder, and per token."""
        return self.mel.hop_length * self.token_stack

    @property
    def frame_rate(self) -> float:
        """Frames of the encoder per second; tokens come at the same rate."""
        return self.sample_rate / self.samples_per_frame

    @property
    def token_dim(self) -> int:
        """Features that a token sees: the stacked mel frames."""
        return self.token_stack * self.mel.n_mels

    @property
    def context_samples(self) -> int:
        """Samples of the context."""
        return round(self.context_seconds * self.sample_rate)

    def num_frames(self, num_samples: int) -> int:
        """Frames of the encoder for so many samples; a last partial frame counts."""
        return -(-(num_samples // self.mel.hop_length) // self.token_stack)

    def num_tokens(self, num_samples: int) -> int:
        """Tokens for so many samples; only whole ones count."""
        return num_samples // self.mel.hop_length // self.token_stack


_FM7 = ModelConfig()
_HZ75 = _FM7.replace(mel=MelConfig(hop_length=320), front_end=FrontEndConfig(time_strides=(1, 1)))
_BERT = _HZ75.replace(encoder=TransformerConfig())

# fm1 to fm9 are the rows of Table 1 (arXiv 2311.03318). FM7 and FM9 differ in their training data
# alone. Strides of the 50 Hz row follow MuQ's code; those of the 75 Hz rows are our own choice.
PRESETS: Mapping[str, ModelConfig] = {
    "tiny": ModelConfig(
        front_end=FrontEndConfig(conv_dim=16),
        encoder=ConformerConfig(dim=64, depth=3, num_heads=4, ffn_dim=128),
        quantizer=RandomProjectionConfig(codebook_size=256),
    ),
    # For a laptop without a GPU: 19 MB of weights. Normalised as rendered songs need it. Sixteen
    # small codebooks tell more about a frame than a large one, and so teach more per step; half of
    # them measure pitch classes, without which so small a model learns timbre and no harmony.
    "nano": ModelConfig(
        mel=MelConfig(mean=0.03, std=16.9),
        front_end=FrontEndConfig(conv_dim=16),
        pitch=PitchConfig(),
        encoder=ConformerConfig(dim=192, depth=4, num_heads=4, ffn_dim=704, dropout=0.0),
        quantizer=RandomProjectionConfig(num_codebooks=16, codebook_size=256, pitch_codebooks=8),
        context_seconds=20.0,
    ),
    "fm1": _BERT.replace(quantizer=KMeansConfig(), context_seconds=5.0),
    "fm2": _BERT.replace(context_seconds=5.0),
    "fm3": _BERT,
    "fm4": _HZ75.replace(context_seconds=5.0),
    "fm5": _HZ75,
    "fm6": _FM7.replace(front_end=FrontEndConfig(time_strides=(2, 1))),
    "fm7": _FM7,
    "fm8": _FM7.replace(encoder=ConformerConfig(depth=24)),
    "fm9": _FM7,
}


def preset(name: str) -> ModelConfig:
    """The configuration of that name. Raises ConfigError with the nearest name if there is none."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"no preset '{name}'; did you mean '{near}'? (all: {', '.join(PRESETS)})")
    return PRESETS[name]
