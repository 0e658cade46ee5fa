"""The page to drop recordings on.

It shows the pages of their analyses in frames made of what the server answers (``blob:``). These
are bound by their own content security policy and by this page's, which so has to let their scripts
pass. A frame has no rights of ours: it is sandboxed.
"""

from string import Template

from musicfm.analysis.html import asset, policy, render, scripts_of
from musicfm.analysis.page import page_scripts
from musicfm.serving.limits import Limits

_ASSETS = "serving/assets"


def drop_page(limits: Limits, has_heads: bool) -> tuple[str, str]:
    """The page, and the content security policy that it comes with.

    Args:
        limits: which it tells, and holds uploads against.
        has_heads: whether there is anything to analyse with.
    """
    scripts = scripts_of(f"{_ASSETS}/drop.js")
    allowed = policy(
        [*scripts, *page_scripts()], "connect-src 'self'", "media-src blob:", "frame-src blob:"
    )
    body = Template(asset(f"{_ASSETS}/drop.html")).substitute(
        max_bytes=limits.max_bytes,
        megabytes=f"{limits.max_bytes / 1e6:g}",
        minutes=f"{limits.max_seconds / 60:.3g}",
        kept="an hour" if limits.keep_seconds == 3_600 else f"{limits.keep_seconds / 60:g} minutes",
        drop_hidden="" if has_heads else "hidden",
        note_hidden="hidden" if has_heads else "",
    )
    page = render("musicfm", body, f"{_ASSETS}/drop.css", scripts, allowed)
    return page, f"{allowed}; frame-ancestors 'none'"
