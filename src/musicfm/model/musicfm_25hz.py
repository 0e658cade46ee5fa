"""The interface of MusicFM's authors: what was written for their repository runs unchanged.

The parts of the model have their names here, in its attributes and in its ``state_dict``. New code
is better served by :class:`musicfm.MusicFM`, which also takes clips of different lengths, stops at
the layer asked for, and loads more layouts.
"""

import os
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from musicfm.errors import AudioError, CheckpointError, ConfigError
from musicfm.files import parse_json
from musicfm.model import checkpoint, hub, published
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    MelConfig,
    ModelConfig,
    RandomProjectionConfig,
)
from musicfm.model.masking import MaskingConfig, draw_blocks
from musicfm.model.mel import check_waveform
from musicfm.model.musicfm import MusicFM
from musicfm.modules.conformer import Conformer, Settings
from musicfm.modules.conv import Conv2dSubsampling
from musicfm.modules.features import MelSTFT
from musicfm.modules.hooks import is_hooked
from musicfm.modules.random_quantizer import RandomProjectionQuantizer

FEATURES: Final = ("melspec_2048", "melspec")
"""The authors' names for the mel: today's, and that of November 2023."""

STATS_PATH: Final = "./data/fma_stats.json"
MODEL_PATH: Final = "./data/pretrained_fma.pt"
LEGACY_STATS_PATH: Final = "./data/fma_classic_stats.json"
LEGACY_MODEL_PATH: Final = "./data/musicfm_25hz_FMA_330m_500k.pt"
"""Where the authors' first README put the files; used when those of today are not there."""


class MusicFM25Hz(nn.Module):
    """MusicFM as its authors publish it.

    The sizes are read off the checkpoint: an argument left at its default yields to the file, one
    that was changed must agree with it. The authors' files do not tell ``hop_length``.

    Args:
        num_codebooks: 1; the interface has no place for more.
        codebook_dim: width of a code.
        codebook_size: number of codes.
        features: the mel, by the authors' name; it is the key of all dictionaries.
        hop_length: samples per mel frame.
        n_mels: mel bands.
        conv_dim: channels of the front end.
        encoder_dim: width of the encoder.
        encoder_depth: number of Conformer blocks.
        mask_hop: seconds of a hidden block.
        mask_prob: probability that a block is hidden.
        is_flash: makes no difference: attention always runs in PyTorch's fastest kernel for the
            device, which is flash attention where there is one.
        stat_path: JSON file of statistics. None, or the default beside another ``model_path``:
            what lies beside the checkpoint.
        model_path: anything that :meth:`MusicFM.from_pretrained` takes. None: random weights of
            the given sizes, with the statistics of ``stat_path`` (None: those of MSD).
        w2v2_config_path: makes no difference: nothing is read from there.

    Raises:
        CheckpointError: no such file, or an argument contradicts it.
        ConfigError: arguments that no model can have.
    """

    def __init__(
        self,
        num_codebooks: int = 1,
        codebook_dim: int = 16,
        codebook_size: int = 4_096,
        features: Sequence[str] = ("melspec_2048",),
        hop_length: int = 240,
        n_mels: int = 128,
        conv_dim: int = 512,
        encoder_dim: int = 1_024,
        encoder_depth: int = 12,
        mask_hop: float = 0.4,
        mask_prob: float = 0.6,
        is_flash: bool = False,
        stat_path: str | Path | None = STATS_PATH,
        model_path: str | Path | None = MODEL_PATH,
        w2v2_config_path: str | None = None,
    ) -> None:
        super().__init__()
        if num_codebooks != 1:
            raise ConfigError(
                f"num_codebooks is {num_codebooks}: the authors' interface returns one set of "
                "tokens per feature; use musicfm.MusicFM for several codebooks"
            )
        if len(features) != 1 or features[0] not in FEATURES:
            raise ConfigError(f"features are {list(features)}; the model takes ['{FEATURES[0]}']")
        sizes = {
            "codebook_dim": codebook_dim,
            "codebook_size": codebook_size,
            "hop_length": hop_length,
            "n_mels": n_mels,
            "conv_dim": conv_dim,
            "encoder_dim": encoder_dim,
            "encoder_depth": encoder_depth,
        }
        if model_path:
            config, tensors, path, stats = _read(model_path, stat_path)
            if path.is_file() and path.suffix != ".ckpt":  # a layout in which no tensor tells
                config = config.replace(mel=config.mel.replace(hop_length=hop_length))
            _check_sizes(sizes, config, model_path)
            with torch.device("meta"):
                self._build(config)
            self._fill(tensors, path)
        else:
            config, stats = _config(sizes, stat_path), stat_path
            self._build(config)
        self._config = config
        self.num_codebooks = num_codebooks
        self.codebook_size = self.quantizer_melspec_2048_0.codebook.shape[0]
        self.features = list(features)
        self.hop_length = config.mel.hop_length
        self.n_mels = config.mel.n_mels
        self.mask_hop, self.mask_prob = mask_hop, mask_prob
        self.stat = {
            **({} if stats is None else parse_json(Path(stats).read_bytes())),
            f"{self.features[0]}_mean": config.mel.mean,
            f"{self.features[0]}_std": config.mel.std,
        }
        # Refuses what does not align.
        MaskingConfig(block_seconds=mask_hop, probability=mask_prob).tokens_per_block(config)
        if (device := torch.get_default_device()).type not in ("cpu", "meta"):
            self.to(device)  # what is drawn or computed, too

    def _build(self, config: ModelConfig) -> None:
        mel, quantizer, encoder = config.mel, config.quantizer, config.encoder
        assert isinstance(quantizer, RandomProjectionConfig)
        assert isinstance(encoder, ConformerConfig)
        self.cls_token = nn.Parameter(torch.randn(encoder.dim))
        self.preprocessor_melspec_2048 = MelSTFT(
            mel.sample_rate, mel.n_fft, mel.hop_length, mel.n_mels, is_db=True
        )
        self.quantizer_melspec_2048_0 = RandomProjectionQuantizer(
            config.token_dim, quantizer.codebook_dim, quantizer.codebook_size, quantizer.seed
        )
        self.conv = Conv2dSubsampling(
            1, config.front_end.conv_dim, encoder.dim, config.front_end.time_strides, mel.n_mels
        )
        self.conformer = Conformer(Settings.of(encoder))
        self.linear = nn.Linear(encoder.dim, quantizer.codebook_size)
        self.loss = nn.CrossEntropyLoss()

    def _fill(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Gives all parts their tensors, which have our names, as float32.

        They are copied: the file, which is mapped into memory, may be written over.
        """
        state = {
            name: torch.ones(tensor.shape) if tensor.is_meta else tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(published.UNUSED) or name in published.COMPUTED.values()
        }
        for name, tensor in tensors.items():
            if name.endswith("num_batches_tracked"):  # float16 has no number for so many
                tensor = tensor.nan_to_num(posinf=0.0)
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            state[published.published(name)] = tensor.to(dtype, copy=True)
        checkpoint.fill(self, state, path)

    def __dir__(self) -> list[str]:
        """Without ``model``, which would be made by those who look at everything, as tracers do."""
        names = super().__dir__()  # type: ignore[no-untyped-call]
        return [name for name in names if name != "model"]

    @property
    def model(self) -> MusicFM:
        """The same weights as a :class:`musicfm.MusicFM`, with parameters in common.

        Raises ConfigError when parts have been deleted, replaced, or given other strides.
        """
        used = {
            published.ours(name): tensor
            for name, tensor in self.state_dict(keep_vars=True).items()
            if not name.startswith((*published.UNUSED, *published.COMPUTED.values()))
        }
        strides = tuple(block.time_stride for block in self.conv.blocks)
        mean, std = (self.stat[f"{self.features[0]}_{name}"] for name in ("mean", "std"))
        config = self._config.replace(
            mel=self._config.mel.replace(mean=mean, std=std),
            front_end=self._config.front_end.replace(time_strides=strides),
            encoder=self._config.encoder.replace(depth=len(self.conformer.layers)),
        )
        with torch.device("meta"):
            model = MusicFM(config)
        for name, weight in model.named_parameters():  # or loading would set theirs to these
            weight.requires_grad_(name not in used or used[name].requires_grad)
        try:
            model.load_state_dict(used, assign=True)
        except RuntimeError as error:
            raise ConfigError(
                "this model is no MusicFM any more: parts of it were deleted, replaced, or given "
                "other strides"
            ) from error
        return model.to(self.linear.weight.device).train(self.training)

    # ------------------------------------------------------------------------------ stages

    # Without gradients, as there: none reach the waveform.

    @torch.no_grad()
    def preprocessing(self, x: Tensor, features: Sequence[str]) -> dict[str, Tensor]:
        """Mel frames in dB by feature, (batch, n_mels, samples // hop_length).

        They are float32, or of the type of x where that is smaller.

        Args:
            x: (batch, samples) in [-1, 1] at 24 kHz; or (batch, 1, samples), of which the mel has
                the second axis, too.
            features: the names of the mel, or of what :class:`MelSTFT` was put beside it, as
                ``preprocessor_NAME``.
        """
        mono = x[:, 0] if isinstance(x, Tensor) and x.dim() == 3 and x.shape[1] == 1 else x
        if not isinstance(mono, Tensor) or mono.dim() != 2:
            check_waveform(mono, None, self._config.mel)  # says what is wrong with it
        mels = {key: self._part("preprocessor_{}", key)(x)[..., :-1] for key in features}
        return {key: mel.to(x.dtype) if x.itemsize == 2 else mel for key, mel in mels.items()}

    @torch.no_grad()
    def normalize(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Subtracts the mean in ``stat``, divides by the standard deviation; x is changed, too."""
        for key in x:
            x[key] = (x[key] - self.stat[f"{key}_mean"]) / self.stat[f"{key}_std"]
        return x

    @torch.no_grad()
    def rearrange(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Stacks the mel frames of each token; x is changed, too.

        (batch, n_mels, time) to (batch, time // 4, 4 * n_mels); a last partial stack gives none.
        """
        stack = self._config.token_stack
        for key, mel in x.items():
            if mel.dim() != 3:
                raise AudioError(f"mel has shape {tuple(mel.shape)}; give (batch, bands, time)")
            whole = mel[..., : mel.shape[-1] // stack * stack].mT
            x[key] = whole.unflatten(1, (-1, stack)).flatten(2)
        return x

    @torch.no_grad()
    def tokenize(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens of stacked frames, (batch, tokens) int64 by feature."""
        return {key: self._part("quantizer_{}_0", key)(frames) for key, frames in x.items()}

    def encoder(self, x: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Logits and all hidden states of a normalised mel, (batch, n_mels, time)."""
        output = self.conformer(self.conv(x), output_hidden_states=True)
        logits = self.linear(output["last_hidden_state"])
        return {self.features[0]: logits[..., : self.codebook_size]}, output["hidden_states"]

    def _part(self, name: str, feature: str) -> nn.Module:
        """What belongs to a feature."""
        name = name.format(FEATURES[0] if feature in FEATURES else feature)
        if name not in self._modules:
            raise ConfigError(
                f"no feature '{feature}': there is no {name}; the model takes ['{FEATURES[0]}']"
            )
        return self.get_submodule(name)

    # ----------------------------------------------------------------------------- the whole

    def get_latent(self, x: Tensor, layer_ix: int = 12) -> Tensor:
        """One hidden state of (batch, samples) audio at 24 kHz, (batch, time, encoder_dim).

        Layer 0 is the front end's output, layer i that of block i. Blocks beyond are not run,
        unless somebody could tell: there are hooks on them, or methods were replaced.
        """
        if not self._may_stop(layer_ix):
            return self.get_predictions(x)[1][layer_ix]
        depth = len(self.conformer.layers)
        if layer_ix not in range(-depth - 1, depth + 1):
            raise ConfigError(f"no layer {layer_ix}; this model has layers 0 to {depth}")
        layer = layer_ix % (depth + 1)
        output = self.conformer(
            self.conv(self._mel(x)), num_layers=None if layer == depth else layer
        )
        return output.last_hidden_state

    def _may_stop(self, layer: int) -> bool:
        """Whether nobody sees what :meth:`get_predictions` does beyond a layer."""
        conformer = self.conformer
        if (
            {"get_predictions", "encoder"} & vars(self).keys()
            or type(self).get_predictions is not MusicFM25Hz.get_predictions
            or type(self).encoder is not MusicFM25Hz.encoder
            or type(conformer) is not Conformer  # but compiled, or somebody's own
            or "forward" in vars(conformer)
            or conformer._forward_hooks
            or conformer._forward_pre_hooks
        ):
            return False
        head = [part for name, part in self.named_children() if name == "linear"]
        beyond = conformer.layers[layer:] if layer > 0 else conformer.layers
        return not is_hooked(*beyond, conformer.layer_norm, *head)

    def get_predictions(self, x: Tensor) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Logits, (batch, time, codebook_size) by feature, and all hidden states."""
        return self.encoder(self._mel(x))

    def get_targets(self, x: Tensor) -> dict[str, Tensor]:
        """Tokens of clean audio, (batch, tokens) int64 by feature."""
        return self.tokenize(self.rearrange(self._normalized(x)))

    def masking(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Hides random blocks under noise, drawn from PyTorch's global generator of the CPU.

        The same seed hides the same as in the authors' code, under the same noise.

        Returns:
            The masked audio, and the (clip, token) indices of what is hidden, (n, 2).
        """
        if x.dim() != 2:
            check_waveform(x, None, self._config.mel)
        masking = MaskingConfig(block_seconds=self.mask_hop, probability=self.mask_prob)
        tokens = masking.tokens_per_block(self._config)
        width = tokens * self._config.samples_per_frame
        blocks = draw_blocks(len(x), x.shape[1] // width, masking.probability, None)
        samples = blocks.repeat_interleave(width, dim=1).nonzero()
        noise = masking.noise_std * torch.randn(len(samples), dtype=x.dtype)
        masked = x.clone()
        masked[tuple(samples.to(x.device).T)] = noise.to(x.device)
        return masked, blocks.repeat_interleave(tokens, dim=1).nonzero()

    def get_loss(
        self,
        logits: Mapping[str, Tensor],
        target_tokens: Mapping[str, Tensor],
        masked_indices: Tensor,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """``loss`` and accuracy on the hidden tokens, by feature; zero if none is hidden."""
        losses, accuracies = {}, {}
        for key, predicted in logits.items():
            scores, targets = (t[tuple(masked_indices.T)] for t in (predicted, target_tokens[key]))
            none = len(targets) == 0
            losses[key] = 0.0 * predicted.sum() if none else self.loss(scores.float(), targets)
            correct = (scores.argmax(dim=-1) == targets).float()
            accuracies[key] = correct.sum() if none else correct.mean()
        return losses, accuracies

    def forward(
        self, x: Tensor
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...], dict[str, Tensor], dict[str, Tensor]]:
        """One masked prediction: logits, hidden states, losses and accuracies."""
        targets = self.get_targets(x)
        masked, indices = self.masking(x)
        logits, hidden_states = self.get_predictions(masked)
        losses, accuracies = self.get_loss(logits, targets, indices)
        if dist.is_available() and dist.is_initialized():
            # DistributedDataParallel asks for gradients of all weights.
            unused = [w.sum() for n, w in self.named_parameters() if n.startswith(published.UNUSED)]
            losses = {key: loss + 0.0 * sum(unused) for key, loss in losses.items()}
        return logits, hidden_states, losses, accuracies

    def _normalized(self, x: Tensor) -> dict[str, Tensor]:
        x = x.float() if isinstance(x, Tensor) and x.is_floating_point() else x
        return self.normalize(self.preprocessing(x, features=self.features))

    def _mel(self, x: Tensor) -> Tensor:
        """The normalised mel, in the type of the weights."""
        mel = self._normalized(x)[self.features[0]]
        return mel.to(next(self.conv.parameters(), x if x.itemsize == 2 else mel).dtype)


def _config(sizes: Mapping[str, int], stat_path: str | Path | None) -> ModelConfig:
    """Of random weights."""
    mel = MelConfig(hop_length=sizes["hop_length"], n_mels=sizes["n_mels"])
    if stat_path is not None:
        mean, std = published.read_stats(stat_path)
        mel = mel.replace(mean=mean, std=std)
    return ModelConfig(
        mel=mel,
        front_end=FrontEndConfig(conv_dim=sizes["conv_dim"]),
        encoder=ConformerConfig(dim=sizes["encoder_dim"], depth=sizes["encoder_depth"]),
        quantizer=RandomProjectionConfig(
            codebook_size=sizes["codebook_size"], codebook_dim=sizes["codebook_dim"]
        ),
    )


def _read(
    model_path: str | Path, stat_path: str | Path | None
) -> tuple[ModelConfig, dict[str, Tensor], Path, str | Path | None]:
    """A configuration, tensors, their file, and the file of statistics that was given for it."""
    stats = stat_path
    if model_path == MODEL_PATH and not os.path.exists(Path(MODEL_PATH)):
        if not os.path.exists(Path(LEGACY_MODEL_PATH)):
            fma = hub.PUBLISHED["fma"]
            advice = hub.by_hand(fma.repo_id, (fma.weights, fma.stats), fma.revision)
            raise CheckpointError(f"there is no {MODEL_PATH}: {advice}, or load model_path='fma'")
        model_path = LEGACY_MODEL_PATH
        stats = LEGACY_STATS_PATH if stat_path == STATS_PATH else stat_path
    elif model_path != MODEL_PATH and stat_path == STATS_PATH:
        stats = None  # the default belongs to the default checkpoint, not to any other
    return *checkpoint.read(model_path, stats), stats


def _check_sizes(asked: Mapping[str, int], config: ModelConfig, model_path: str | Path) -> None:
    """Raises CheckpointError where an argument that was changed contradicts the checkpoint."""
    quantizer = config.quantizer
    if not isinstance(quantizer, RandomProjectionConfig) or quantizer.num_codebooks != 1:
        raise CheckpointError(
            f"{model_path} has {quantizer.num_codebooks} codebooks of kind '{quantizer.kind}'; "
            "the authors' interface knows one random projection: use musicfm.MusicFM"
        )
    if not isinstance(config.encoder, ConformerConfig) or config.pitch is not None:
        raise CheckpointError(
            f"{model_path} has parts that the authors' interface has no names for, an encoder of "
            "another kind or a second input: use musicfm.MusicFM"
        )
    found = {
        "codebook_dim": quantizer.codebook_dim,
        "codebook_size": quantizer.codebook_size,
        "hop_length": config.mel.hop_length,
        "n_mels": config.mel.n_mels,
        "conv_dim": config.front_end.conv_dim,
        "encoder_dim": config.encoder.dim,
        "encoder_depth": config.encoder.depth,
    }
    defaults: Mapping[str, Any] = signature(MusicFM25Hz).parameters
    for name, value in asked.items():
        if value != defaults[name].default and value != found[name]:
            raise CheckpointError(
                f"{name} is {value}, and {model_path} has {found[name]}; leave the argument out"
            )
