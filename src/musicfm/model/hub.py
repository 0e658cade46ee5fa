"""The Hugging Face hub: the published checkpoints, and models by id.

Downloads are cached, resumed and show their progress; ``HF_HUB_OFFLINE`` and ``HF_HOME`` are
honoured. All of that is huggingface_hub's, imported only when something is fetched.
"""

import hashlib
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from musicfm.errors import CheckpointError

_CONNECT_SECONDS = 3.0
"""Seconds to wait for an answer; without a network that is known at once, or never."""
_LARGE = 50_000_000
"""Bytes of a download whose size is said before it begins."""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A checkpoint of MusicFM's authors, pinned; hashes are SHA-256, or as much as is known."""

    weights: str
    weights_sha256: str
    stats: str
    stats_sha256: str
    repo_id: str = "minzwon/MusicFM"
    revision: str = "4513b38bc25ad1d227b1980819b9691ba97f4d87"


# Hashes as recorded by third parties; that of msd_stats.json is known only in its first digits.
PUBLISHED = {
    "msd": PublishedCheckpoint(
        "pretrained_msd.pt",
        "218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded",
        "msd_stats.json",
        "c36c61ab",
    ),
    "fma": PublishedCheckpoint(
        "pretrained_fma.pt",
        "68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96",
        "fma_stats.json",
        "5416e468018bae68c6231d4cbb2b11f0d11c04e6437881505ae427a3f8344904",
    ),
}


def is_repo_id(name: str) -> bool:
    """Whether a name looks like ``owner/model``, and not like a file."""
    looks = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None
    return looks and not name.endswith((".pt", ".pth", ".ckpt", ".safetensors"))


def fetch_published(alias: str, allow_hash_mismatch: bool) -> tuple[Path, Path]:
    """Downloads one of the authors' checkpoints, or finds it in the cache.

    Returns:
        The weights and their statistics.

    Raises:
        CheckpointError: not to be had, or not the file that was published.
    """
    entry = PUBLISHED[alias]
    files = (entry.weights, entry.stats)
    weights, stats = (_fetch(entry.repo_id, name, entry.revision, files) for name in files)
    for path, expected in ((weights, entry.weights_sha256), (stats, entry.stats_sha256)):
        _check_hash(path, expected, allow_hash_mismatch)
    return weights, stats


def fetch_folder(repo_id: str, files: Sequence[str], revision: str | None) -> Path:
    """Downloads a model of ours; returns the folder that holds its files."""
    try:
        fetched = [_fetch(repo_id, name, revision, files) for name in files]
    except CheckpointError as error:
        raise CheckpointError(f"there is no folder {repo_id} here, and {error}") from error
    return fetched[0].parent


def upload_folder(folder: str, repo_id: str, private: bool, message: str) -> str:
    """Uploads a folder's files as one commit; returns its address. Raises CheckpointError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise CheckpointError(f"cannot upload to {repo_id}: {_first_line(error)}") from error
    return str(commit.commit_url)


def _fetch(repo_id: str, name: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, name, revision=revision)
        cached = Path(found) if isinstance(found, str) else None
        if cached and re.fullmatch("[0-9a-f]{40}", revision or ""):
            return cached  # unlike a branch, a commit cannot have moved
        try:
            # hf_hub_download would try for half a minute, and say so in lines of its own.
            metadata = get_hf_file_metadata(
                hf_hub_url(repo_id, name, revision=revision), timeout=_CONNECT_SECONDS
            )
        except Exception:
            if cached:
                return cached
            raise
        size = metadata.size or 0
        if not cached and size > _LARGE:
            where = constants.HF_HUB_CACHE
            print(f"downloading {size / 1e9:.2g} GB of {repo_id} to {where}", file=sys.stderr)
        return Path(hf_hub_download(repo_id, name, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(f"no hub id '{repo_id}': {_first_line(error)}") from error
    except Exception as error:  # those of its HTTP library too, which differs between versions
        raise CheckpointError(
            f"cannot download {name} of {repo_id} ({_first_line(error)}); with a connection, "
            f"{by_hand(repo_id, files, revision)}; 'nano' comes with the package and needs no "
            "download"
        ) from error


def by_hand(repo_id: str, files: Sequence[str], revision: str | None) -> str:
    """Where to get files without this package, and where to put them: the end of a sentence."""
    from huggingface_hub import hf_hub_url

    addresses = " and ".join(hf_hub_url(repo_id, file, revision=revision) for file in files)
    model = f"data/{files[0]}" if files[0].endswith(".pt") else "data/"
    return f"download {addresses} into one folder, say data/, and load {model}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _check_hash(path: Path, expected: str, allow_mismatch: bool) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found.startswith(expected):
        return
    # The cache's names are links; deleting only the link would bring the same file back.
    message = (
        f"{path.resolve()} is not the published {path.name}: "
        f"its SHA-256 is {found}, expected {expected}"
    )
    if not allow_mismatch:
        raise CheckpointError(f"{message}; delete it, or pass allow_hash_mismatch=True")
    warnings.warn(message, stacklevel=2)
