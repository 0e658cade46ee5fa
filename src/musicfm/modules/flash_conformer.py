"""Stands where the authors' repository has a Conformer for flash attention."""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(
        f"musicfm.modules.flash_conformer has no {name}: attention runs in PyTorch's fastest "
        "kernel everywhere; use musicfm.modules.conformer.Conformer, or MusicFM25Hz as a whole"
    )
