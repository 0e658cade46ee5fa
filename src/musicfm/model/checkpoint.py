"""Loading and saving models: our folders, the published files, and the hub.

Our folder holds ``model.safetensors`` and ``config.json``. Nothing here unpickles code. A tensor
that is missing, unexpected, misshapen or not finite is an error that names it. Weights are
memory-mapped, so a file in use must be replaced by renaming, which is what :func:`save` does.
"""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from musicfm.errors import CheckpointError, ConfigError, OutputError, did_you_mean
from musicfm.files import atomic_write, parse_json, write_file
from musicfm.model import hub, published
from musicfm.model.config import Config, ModelConfig
from musicfm.model.published import Stats

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TRACKS = "training_tracks.txt"
"""Beside a model or a head of ours: what it was trained on, in lines, as of
:func:`musicfm.datasets.scanning.identities`."""
SHIPPED = "nano"
"""The alias of the small model that comes with the package."""

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}

RUN_PREFIX = "objective.model."
"""Prefix of every key in a checkpoint of a pretraining run."""

Model = TypeVar("Model", bound=nn.Module)
AnyConfig = TypeVar("AnyConfig", bound=Config)


class Configured(Protocol):
    """A :class:`musicfm.MusicFM`, as far as a checkpoint needs to know it."""

    @property
    def config(self) -> ModelConfig:
        """What the model was built from."""

    def state_dict(self) -> dict[str, Any]:
        """Its tensors by name."""


def load(
    source: str | Path,
    model_class: type[Model],
    *,
    stats: Stats | None = None,
    revision: str | None = None,
    allow_hash_mismatch: bool = False,
) -> Model:
    """Loads a model, in eval mode, on the CPU.

    Args:
        source: an alias (``"nano"``: the small model that comes with the package; ``"msd"``,
            ``"fma"``: the authors' checkpoints; a folder of that name is ``"./msd"``), a folder of
            ours, a ``.ckpt`` file of a pretraining run, a ``.pt`` file in a published layout, or a
            hub id such as ``"name/model"``.
        model_class: :class:`musicfm.MusicFM` or a subclass.
        stats: for a ``.pt`` file, its JSON file of statistics or (mean, standard deviation) in dB;
            by default the file beside it.
        revision: for a hub id, a branch, tag or commit.
        allow_hash_mismatch: for an alias, warn instead of refusing when a file is not the one that
            was published.

    Raises:
        CheckpointError: nothing there, or it is damaged or not a model of this kind.
    """
    config, tensors, path = read(source, stats, revision, allow_hash_mismatch)
    tensors = {n: t for n, t in tensors.items() if not n.startswith(published.UNUSED)}
    # On the meta device nothing is initialised, only to be overwritten.
    with torch.device("meta"):
        model = model_class(config)
    fill(model, tensors, path)
    return model.eval()


def read(
    source: str | Path,
    stats: Stats | None = None,
    revision: str | None = None,
    allow_hash_mismatch: bool = False,
) -> tuple[ModelConfig, dict[str, Tensor], Path]:
    """The configuration and the tensors of a model, and where they were; see :func:`load`.

    Of the authors' files, those that the model does not use are there, too.
    """
    path, published_stats = locate(source, revision, allow_hash_mismatch)
    if os.path.isdir(path):
        if stats is not None:
            raise CheckpointError(f"stats= is for .pt files; those of {path} are in its {CONFIG}")
        config, tensors = read_pair(path / WEIGHTS, path / CONFIG, ModelConfig, "model")
    elif path.suffix == ".ckpt" and _is_run(path):
        if stats is not None:
            raise CheckpointError(f"stats= is for .pt files; {path} holds its own")
        config, tensors = _read_run(path)
    else:
        config, tensors = published.read(path, published_stats if stats is None else stats)
    return config, tensors, path


def locate(
    source: str | Path, revision: str | None = None, allow_hash_mismatch: bool = False
) -> tuple[Path, Path | None]:
    """Where a model is on this machine, downloaded if need be; and of an alias, the file of its
    statistics. For the arguments see :func:`load`.

    Raises CheckpointError if there is no such file or folder.
    """
    path, stats = folder_of(source) or Path(source), None
    if str(source) in hub.PUBLISHED:
        path, stats = hub.fetch_published(str(source), allow_hash_mismatch)
    elif not os.path.exists(path) and hub.is_repo_id(str(source)):
        path = hub.fetch_folder(str(source), (CONFIG, WEIGHTS), revision)
        revision = None
    if revision is not None:
        raise CheckpointError(f"revision={revision!r} is for hub ids, which '{source}' is not")
    if os.path.isfile(path) or os.path.isdir(path):
        return path, stats
    if path.suffix in (".pt", ".ckpt"):
        raise CheckpointError(f"there is no file {path}; check the path")
    aliases = (SHIPPED, *hub.PUBLISHED)
    raise CheckpointError(
        f"no model '{source}'{did_you_mean(str(source), aliases)}: give "
        f"{', '.join(map(repr, aliases))}, a folder with {WEIGHTS} and {CONFIG}, a "
        ".ckpt or .pt file, or a hub id like 'name/model'"
    )


def folder_of(source: str | Path) -> Path | None:
    """The folder on this machine that a model is loaded from, with whatever else lies in it; None
    if it is another kind of source.
    """
    if str(source) == SHIPPED:
        return Path(__file__).parents[1] / SHIPPED
    return Path(source) if str(source) not in hub.PUBLISHED and os.path.isdir(source) else None


def save(model: Configured, folder: str | Path) -> None:
    """Writes a model as ``folder/model.safetensors`` and ``folder/config.json``.

    Weights keep their dtype. A model that is there already is replaced at the end, so a full disk
    loses nothing. The weights carry a copy of the configuration, so a kill between the two renames
    is noticed. Raises OutputError, or CheckpointError for a tensor that is not finite.
    """
    write_pair(Path(folder) / WEIGHTS, Path(folder) / CONFIG, model.state_dict(), model.config)


def push(model: Configured, repo_id: str, *, private: bool = False, message: str = "") -> str:
    """Uploads what :func:`save` writes to the hub, making the repository if need be.

    Returns:
        The address of the commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        return hub.upload_folder(folder, repo_id, private, message or "Upload a MusicFM model")


def read_tracks(folder: Path) -> list[str] | None:
    """What the model or head in a folder was trained on; None if that is not known."""
    path = folder / TRACKS
    if not os.path.isfile(path):
        return None
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def tracks_of(source: str | Path) -> list[str] | None:
    """What a model was trained on, by its name or folder; None if that is not known."""
    folder = folder_of(source)
    return None if folder is None else read_tracks(folder)


def write_tracks(folder: Path, *tracks: Iterable[str] | None) -> None:
    """Notes what the model or head in a folder was trained on, in one run or in several; with None
    among these it is not known.

    Nothing stays of what was noted of another. Raises OutputError.
    """
    known = [some for some in tracks if some is not None]
    if len(known) < len(tracks):
        (folder / TRACKS).unlink(missing_ok=True)
        return
    names = dict.fromkeys(itertools.chain(*known))
    write_file(folder / TRACKS, "".join(f"{name}\n" for name in names))


def fingerprint(model: Configured) -> str:
    """SHA-256 of what a model computes with: its configuration and its tensors."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_pair(weights: Path, config: Path, tensors: Mapping[str, Tensor], fields: Config) -> None:
    """Writes tensors and the configuration that they belong to, as two files of one folder.

    Both are whole or not there; the weights carry a copy of the configuration. Raises OutputError,
    or CheckpointError for a tensor that is not finite.
    """
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    _check_finite(tensors, weights.parent)
    content = fields.to_dict()
    with atomic_write(config) as new_config, atomic_write(weights) as new_weights:
        new_config.write_text(json.dumps(content, indent=2) + "\n")
        try:
            # One entry: safetensors writes several in no fixed order.
            save_file(tensors, new_weights, {"config": json.dumps(content)})
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OutputError(f"cannot write {weights}: {error}") from error
        # safetensors makes files for their owner alone.
        new_weights.chmod(new_config.stat().st_mode)


def read_pair(
    weights: Path, config: Path, kind: type[AnyConfig], what: str
) -> tuple[AnyConfig, dict[str, Tensor]]:
    """Reads what :func:`write_pair` wrote.

    Args:
        weights: the file of tensors.
        config: the file of the configuration.
        kind: of the configuration.
        what: the two make up, for messages: "model" or "head".

    Raises CheckpointError: a file is missing or damaged, or the two are not of one save.
    """
    folder = weights.parent
    for path in (weights, config):
        if not os.path.isfile(path):
            raise CheckpointError(f"{folder} is not a {what}: there is no {path.name} in it")
    try:
        fields = parse_json(config.read_bytes())
        read = kind.from_dict(fields)
    except (ValueError, OSError) as error:
        reason = error if isinstance(error, ConfigError) else "not readable as JSON"
        raise CheckpointError(f"{config}: {reason}") from error
    try:
        tensors = load_file(weights)
        with safe_open(weights, "pt") as file:
            saved_with = (file.metadata() or {}).get("config")
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{weights} is damaged or incomplete ({error}); copy or download it again"
        ) from error
    if saved_with not in (None, json.dumps(fields)):
        raise CheckpointError(
            f"{config} is not the one that was saved with {weights.name}: it was edited, or a "
            f"save was interrupted; save the {what} again"
        )
    return read, tensors


def _is_run(path: Path) -> bool:
    """Whether a file is none that was saved in the authors' layout, by this name."""
    content = published.unpickle(path)
    return not isinstance(content, dict) or "musicfm" in content or "state_dict" not in content


def _read_run(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model within a checkpoint of a pretraining run."""
    content = published.unpickle(path)
    try:
        config = ModelConfig.from_dict(content["musicfm"]["recipe"]["model"])
        tensors = {
            name.removeprefix(RUN_PREFIX): tensor for name, tensor in content["state_dict"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of a pretraining run") from error
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config, published.checked_tensors(tensors, path)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Gives a model its tensors; each must be expected, present, in shape and finite."""
    expected = model.state_dict()
    for name, wanted in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor '{name}' is missing")
        tensor = tensors[name]
        if tensor.shape != wanted.shape:
            raise CheckpointError(
                f"{path}: tensor '{name}' has shape {tuple(tensor.shape)}, "
                f"expected {tuple(wanted.shape)}"
            )
        allowed = _FLOATS if wanted.is_floating_point() else _FLOATS | _INTEGERS
        if tensor.dtype not in allowed:
            raise CheckpointError(
                f"{path}: tensor '{name}' is {tensor.dtype}, expected {wanted.dtype}"
            )
    if unexpected := sorted(set(tensors) - set(expected)):
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        raise CheckpointError(f"{path}: tensor '{unexpected[0]}'{more} is unexpected")
    _check_finite(tensors, path)
    # Counters are stored as floats in the published files.
    cast = {
        name: tensor if expected[name].is_floating_point() else tensor.to(expected[name].dtype)
        for name, tensor in tensors.items()
    }
    model.load_state_dict(cast, assign=True)
    # One type for all weights, except those that stay float32.
    model.to(reduce(torch.promote_types, {weight.dtype for weight in model.parameters()}))


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        # Extremes are NaN or infinite if anything is, and take a tenth of isfinite's time.
        if not all(torch.isfinite(extreme) for extreme in tensor.aminmax()):
            raise CheckpointError(f"{path}: tensor '{name}' has NaN or infinite values")
