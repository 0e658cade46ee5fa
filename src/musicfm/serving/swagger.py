"""The interactive documentation of the API at ``/docs``: Swagger UI, without another host.

FastAPI's own page loads its scripts from a content delivery network; the package fastapi-offline
carries them.
"""

import re
from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from musicfm.analysis.html import hash_of

_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def add_docs(api: FastAPI) -> None:
    """Adds the routes of the page and of its two files."""
    html = bytes(
        get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="musicfm: the API",
            swagger_js_url="/docs/swagger-ui-bundle.js",
            swagger_css_url="/docs/swagger-ui.css",
            swagger_favicon_url="data:,",
        ).body
    ).decode()
    inline = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' {' '.join(map(hash_of, inline))}",
            "style-src 'self' 'unsafe-inline'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(html, headers={"Content-Security-Policy": policy})

    @api.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _FILES:
            return Response(status_code=404)
        content = (files("fastapi_offline") / "static" / name).read_bytes()
        return Response(content, media_type=_FILES[name])
