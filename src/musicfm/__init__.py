"""Music foundation models of the MusicFM kind.

Names are imported when they are first used, so that ``import musicfm`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from musicfm.errors import (
    AudioError,
    AudioWarning,
    CheckpointError,
    ConfigError,
    DataError,
    MusicFMError,
    OutputError,
)

if TYPE_CHECKING:
    from musicfm.collection import Summary as Summary
    from musicfm.collection import embed_collection as embed_collection
    from musicfm.compat import MusicFM25Hz as MusicFM25Hz
    from musicfm.config import ModelConfig as ModelConfig
    from musicfm.config import preset as preset
    from musicfm.embedding import Embedder as Embedder
    from musicfm.embedding import Embedding as Embedding
    from musicfm.inference.form import optimize as optimize
    from musicfm.model import MusicFM as MusicFM
    from musicfm.model import full_float32 as full_float32

__version__ = "0.1.0.dev0"

_HOMES = {
    "Embedder": "embedding",
    "Embedding": "embedding",
    "ModelConfig": "config",
    "MusicFM": "model",
    "MusicFM25Hz": "compat",
    "Summary": "collection",
    "embed_collection": "collection",
    "full_float32": "model",
    "optimize": "inference.form",
    "preset": "config",
}

__all__ = [
    "AudioError",
    "AudioWarning",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "MusicFMError",
    "OutputError",
    "__version__",
    *_HOMES,
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musicfm' has no attribute '{name}'")
    return getattr(import_module(f"musicfm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
