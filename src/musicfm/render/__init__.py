"""Labelled songs, composed and rendered on the spot."""
