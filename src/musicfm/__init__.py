"""Music foundation models of the MusicFM kind."""

__version__ = "0.1.0.dev0"
