"""``python -m musicfm`` is the command ``musicfm``."""

from musicfm.cli import main

if __name__ == "__main__":
    main()
