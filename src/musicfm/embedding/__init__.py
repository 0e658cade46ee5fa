"""Embedding: recordings to frames of a model, in memory or in a folder of results."""

from typing import TYPE_CHECKING

from musicfm._lazy import lazy_names

if TYPE_CHECKING:
    from musicfm.embedding.embedder import Embedder as Embedder
    from musicfm.embedding.embedder import Embedding as Embedding
    from musicfm.embedding.embedder import WindowEncoder as WindowEncoder

__getattr__ = lazy_names(
    __name__, dict.fromkeys(("Embedder", "Embedding", "WindowEncoder"), "embedder")
)
