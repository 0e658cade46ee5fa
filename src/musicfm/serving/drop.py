"""The page to drop recordings on.

It shows the pages of their analyses in frames made of what the server answers (``blob:``). These
are bound by their own content security policy and by this page's, which so has to let their scripts
pass. A frame has no rights of ours: it is sandboxed.
"""

from importlib.resources import files
from string import Template

from musicfm.analysis import page
from musicfm.serving.limits import Limits


def drop_page(limits: Limits, has_heads: bool) -> tuple[str, str]:
    """The page, and the content security policy that it comes with.

    Args:
        limits: which it tells, and holds uploads against.
        has_heads: whether there is anything to analyse with.
    """
    script = _asset("drop.js")
    text = Template(_asset("drop.html")).substitute(
        style=page.asset("page.css") + _asset("drop.css"),
        script=script,
        max_bytes=limits.max_bytes,
        megabytes=f"{limits.max_bytes / 1e6:g}",
        minutes=f"{limits.max_seconds / 60:.3g}",
        kept="an hour" if limits.keep_seconds == 3_600 else f"{limits.keep_seconds / 60:g} minutes",
        drop_hidden="" if has_heads else "hidden",
        note_hidden="hidden" if has_heads else "",
    )
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join([page.hash_of(script), *page.script_hashes()])}",
            "style-src 'unsafe-inline'",
            "connect-src 'self'",
            "media-src blob:",
            "frame-src blob:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return text, policy


def _asset(name: str) -> str:
    return (files("musicfm.serving") / "assets" / name).read_text(encoding="utf-8")
