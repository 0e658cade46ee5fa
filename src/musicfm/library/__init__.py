"""A collection of music: what is known of each track, and vectors to find similar ones by."""
