"""Hook of the build: README.md as PyPI shows it.

PyPI knows nothing of the files beside it. Where the repository is known, as in the workflow that
releases (``GITHUB_REPOSITORY``, ``GITHUB_REF_NAME``), links and pictures lead there; else links
become text, and pictures go.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets the long description, and links where they are known."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = os.environ.get("GITHUB_REPOSITORY", "")
        tag = os.environ.get("GITHUB_REF_NAME", "main")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_pypi(text, repository, tag),
        }
        if repository:
            home = f"https://github.com/{repository}"
            changes = f"{home}/blob/{tag}/CHANGELOG.md"
            metadata["urls"] = {"Source": home, "Changelog": changes}


def for_pypi(text: str, repository: str, tag: str) -> str:
    """A page of the repository for where its other files are not.

    Args:
        text: Markdown.
        repository: its owner and name on GitHub; empty if that is not known.
        tag: a tag or branch of it.
    """

    def link(match: re.Match[str]) -> str:
        image, shown, target = match.groups()
        if not repository:
            return "" if image else shown
        kind = "raw" if image else "blob"
        return f"{image}[{shown}](https://github.com/{repository}/{kind}/{tag}/{target})"

    return _LINK.sub(link, text)
