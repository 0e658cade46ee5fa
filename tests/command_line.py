"""The command line, run in the process of the tests."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Takes arguments; gives status, standard output and standard error."""
