"""Collections of recordings: what is in them, how it is split, and how it is read."""
