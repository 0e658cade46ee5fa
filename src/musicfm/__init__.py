"""Music foundation models of the MusicFM kind.

Names are imported when they are first used, so that ``import musicfm`` does not import torch.
"""

from typing import TYPE_CHECKING

from musicfm import _moved
from musicfm._lazy import lazy_names
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
    from musicfm.analysis.analyze import analyze as analyze
    from musicfm.embedding.collection import Summary as Summary
    from musicfm.embedding.collection import embed_collection as embed_collection
    from musicfm.embedding.embedder import Embedder as Embedder
    from musicfm.embedding.embedder import Embedding as Embedding
    from musicfm.library.library import Library as Library
    from musicfm.model.config import ModelConfig as ModelConfig
    from musicfm.model.config import preset as preset
    from musicfm.model.inference.optimized import optimize as optimize
    from musicfm.model.musicfm import MusicFM as MusicFM
    from musicfm.model.musicfm import full_float32 as full_float32
    from musicfm.model.musicfm_25hz import MusicFM25Hz as MusicFM25Hz

__version__ = "0.1.0.dev0"

_HOMES = {
    "Embedder": "embedding.embedder",
    "Embedding": "embedding.embedder",
    "Library": "library.library",
    "ModelConfig": "model.config",
    "MusicFM": "model.musicfm",
    "MusicFM25Hz": "model.musicfm_25hz",
    "Summary": "embedding.collection",
    "analyze": "analysis.analyze",
    "embed_collection": "embedding.collection",
    "full_float32": "model.musicfm",
    "optimize": "model.inference.optimized",
    "preset": "model.config",
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


__getattr__ = lazy_names(__name__, _HOMES)
_moved.install()


def __dir__() -> list[str]:
    return __all__
