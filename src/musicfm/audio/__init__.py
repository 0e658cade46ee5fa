"""Audio: any file to mono samples at a rate, in this process or in others."""

from typing import TYPE_CHECKING

from musicfm._lazy import lazy_names

if TYPE_CHECKING:
    from musicfm.audio.codecs import AudioInfo as AudioInfo
    from musicfm.audio.reading import load as load
    from musicfm.audio.reading import probe as probe
    from musicfm.audio.reading import resample as resample
    from musicfm.audio.reading import stream as stream
    from musicfm.audio.reading import tags as tags
    from musicfm.audio.sources import AudioFile as AudioFile
    from musicfm.audio.sources import local_copy as local_copy

__getattr__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("load", "probe", "resample", "stream", "tags"), "reading"),
        **dict.fromkeys(("AudioFile", "local_copy"), "sources"),
        "AudioInfo": "codecs",
    },
    old={"at_hand": "local_copy"},
)
