"""Reading ``.npz`` files, closed at once: an open one is a warning, hence an error."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a file."""
    with np.load(path) as arrays:
        return dict(arrays)
