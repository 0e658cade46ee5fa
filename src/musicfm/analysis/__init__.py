"""Songs, analysed: beats, chords, sections, key and tags, and a page that shows and plays them."""
