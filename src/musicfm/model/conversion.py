"""Models between the published layout and ours."""

import os
from pathlib import Path

from musicfm.errors import CheckpointError, OutputError
from musicfm.model import checkpoint, published
from musicfm.model.musicfm import MusicFM
from musicfm.model.published import Stats


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    stats: Stats | None = None,
    overwrite: bool = False,
) -> None:
    """Converts between the published layout and ours, losing nothing that the model uses.

    From folder to folder, what the model was trained on (:data:`.checkpoint.TRACKS`) goes along.

    Args:
        source: anything that :func:`musicfm.model.checkpoint.load` takes.
        destination: a ``.pt`` file for the published layout (its statistics go beside it), or a
            folder for ours.
        stats: as in :func:`musicfm.model.checkpoint.load`.
        overwrite: replace a model that is there.

    Raises CheckpointError: no model, or no such destination; OutputError: a model is there already,
    or the destination cannot be written.
    """
    destination = Path(destination)
    if destination.suffix.lower() in (".pth", ".ckpt", ".bin", ".safetensors"):
        raise CheckpointError(f"cannot convert to {destination}: give a folder, or a file in .pt")
    to_folder = destination.suffix.lower() != ".pt"
    written = destination / checkpoint.WEIGHTS if to_folder else destination
    if os.path.exists(written) and not overwrite:
        raise OutputError(f"{written} already exists; choose another name, or overwrite it")
    model = checkpoint.load(source, MusicFM, stats=stats)
    if not to_folder:
        published.write(model.config, model.state_dict(), destination)
    else:
        tracks = checkpoint.tracks_of(source)  # before they are replaced
        checkpoint.save(model, destination)
        checkpoint.write_tracks(destination, tracks)
