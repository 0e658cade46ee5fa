"""What HTML pages have in common: a layout, a style, a script, and what browsers let them do.

Whatever comes from recordings is data: JSON and base64, in elements that the browser does not run.
Scripts are allowed by their hashes alone, and nothing may be fetched from elsewhere, so that a
title is shown and never obeyed.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template

_ASSETS = "analysis/assets"


def asset(path: str) -> str:
    """A text file of the package, by its path in ``musicfm``."""
    return (files("musicfm") / path).read_text(encoding="utf-8")


def scripts_of(*paths: str) -> list[str]:
    """The texts of the script that all pages share, and of others by their paths."""
    return [asset(path) for path in (f"{_ASSETS}/shared.js", *paths)]


def policy(scripts: Iterable[str], *directives: str, sources: str = "") -> str:
    """A content security policy.

    Args:
        scripts: the texts of those that may run.
        directives: what else is allowed.
        sources: of scripts, besides those.
    """
    hashes = " ".join(map(hash_of, scripts))
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {sources} {hashes}",
            "style-src 'unsafe-inline'",
            "base-uri 'none'",
            "form-action 'none'",
            *directives,
        ]
    )


def hash_of(script: str) -> str:
    """A script as a content security policy names it."""
    return f"'sha256-{_base64(hashlib.sha256(script.encode()).digest())}'"


def render(
    title: str,
    body: str,
    style: str,
    scripts: Sequence[str],
    policy: str,
    data: Mapping[str, object] | None = None,
    generator: str = "musicfm",
) -> str:
    """A page.

    Args:
        title: of the window, as plain text.
        body: HTML, with a header of the class ``head``.
        style: path of the style sheet that goes beside the shared one.
        scripts: their texts, the shared one first.
        policy: see :func:`policy`.
        data: contents of elements for the scripts, by id; bytes as base64, all else as JSON.
        generator: what made the page.
    """
    elements = [
        f'<script type="text/plain" id="{name}">{_base64(value)}</script>'
        if isinstance(value, bytes)
        else f'<script type="application/json" id="{name}">{_json(value)}</script>'
        for name, value in (data or {}).items()
    ]
    return Template(asset(f"{_ASSETS}/layout.html")).substitute(
        title=html.escape(title),
        generator=generator,
        policy=policy,
        style=asset(f"{_ASSETS}/style.css") + asset(style),
        body=body,
        scripts="\n".join([*elements, *(f"<script>{script}</script>" for script in scripts)]),
    )


def _json(value: object) -> str:
    """JSON that ends no element of HTML, whatever texts are in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
