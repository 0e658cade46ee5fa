"""Modules under the names that they had before 0.2, which still import, with a warning."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "checkpoint": "model.checkpoint",
    "collection": "embedding.collection",
    "compat": "model.musicfm_25hz",
    "config": "model.config",
    "decoders": "audio.decoders",
    "encoder": "model.encoder",
    "export": "model.export",
    "folders": "audio.folders",
    "hub": "model.hub",
    "inference": "model.inference",
    "inference.convolutions": "model.inference.convolutions",
    "inference.cuda": "model.inference.cuda",
    "inference.encoder": "model.inference.encoder",
    "inference.form": "model.inference.optimized",
    "inference.front_end": "model.inference.front_end",
    "inference.int8": "model.inference.int8",
    "inference.weights": "model.inference.weights",
    "masking": "model.masking",
    "mel": "model.mel",
    "pooling": "embedding.pooling",
    "processes": "audio.processes",
    "published": "model.published",
    "quantizers": "model.quantizers",
    "results": "embedding.results",
    "windows": "embedding.windows",
}
"""Old names to new ones, both below ``musicfm``."""


class MovedFinder(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED`; an old name gives the same module as the new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See :class:`importlib.abc.MetaPathFinder`."""
        package, _, name = fullname.partition(".")
        if package != "musicfm" or name not in MOVED:
            return None
        new = f"musicfm.{MOVED[name]}"
        warnings.warn(
            f"{fullname} is now {new}; the old name will be removed with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return ModuleSpec(fullname, self, origin=new)

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module of the new name in the place of this one."""
        assert module.__spec__ is not None
        assert module.__spec__.origin is not None
        sys.modules[module.__name__] = import_module(module.__spec__.origin)


def install() -> None:
    """Makes the old names importable; before other finders, which find parts of packages again."""
    sys.meta_path.insert(0, MovedFinder())
