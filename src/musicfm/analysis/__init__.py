"""What a song is made of, to read, to hear and to look at."""
