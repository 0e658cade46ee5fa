"""The model: tensors and the files they are kept in; no module here knows what a recording is."""

from typing import TYPE_CHECKING

from musicfm._lazy import lazy_names

if TYPE_CHECKING:
    from musicfm.model.musicfm import FrontEnd as FrontEnd
    from musicfm.model.musicfm import MusicFM as MusicFM
    from musicfm.model.musicfm import Output as Output
    from musicfm.model.musicfm import ResidualBlock as ResidualBlock
    from musicfm.model.musicfm import full_float32 as full_float32

__getattr__ = lazy_names(
    __name__,
    dict.fromkeys(("FrontEnd", "MusicFM", "Output", "ResidualBlock", "full_float32"), "musicfm"),
)
