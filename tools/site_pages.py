"""Hooks of mkdocs: pages that lie outside of docs/, and links to what is no page.

README.md is the first page of the site. Links in the sources are those of the repository, so that
they work where it is browsed; here they become links between pages, or to the repository.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "src/musicfm/nano/README.md": "nano.md",
    "src/musicfm/nano/curves.png": "curves.png",
}
"""Files of the repository, and what they are called on the site."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


_OF_REPOSITORY = re.compile(r"^(\[[^\]]+\]: )\.\./\.\./", re.MULTILINE)
"""What GitHub resolves from a file at the top to a page about the repository."""

_ROLE = re.compile(r":(?:meth|class|func|mod|attr|data):<code>~?([^<]*)</code>")
"""Sphinx's references, which docstrings have."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what lies outside of docs/."""
    for source, name in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turns links between files of the repository into links of the site."""
    names = {name: source for source, name in ELSEWHERE.items()}
    source = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in ELSEWHERE:
            return f"{image}[{text}]({ELSEWHERE[path]}{anchor})"
        if path.startswith("docs/"):
            return f"{image}[{text}]({path.removeprefix('docs/')}{anchor})"
        if not (ROOT / path).exists():
            return match[0]  # which mkdocs reports
        return f"[{text}]({config.repo_url}/blob/main/{path})" if config.repo_url else text

    repository = config.repo_url or ROOT.as_uri()
    return _LINK.sub(link, _OF_REPOSITORY.sub(rf"\1{repository}/", markdown))


def on_page_content(html: str, **_: Any) -> str:
    """Leaves of a docstring's references what they refer to."""
    return _ROLE.sub(r"<code>\1</code>", html)
