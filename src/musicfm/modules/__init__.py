"""The parts of :class:`musicfm.MusicFM25Hz`, with the names and the interfaces of its authors'."""
