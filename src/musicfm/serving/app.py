"""The HTTP interface: routes, and what goes wrong in them."""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Collection
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import AfterValidator, BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

import musicfm
from musicfm.analysis.analyzer import Analysis
from musicfm.embedding.embedder import Embedder, wanted_layers
from musicfm.errors import AudioError, MusicFMError
from musicfm.library.library import Library
from musicfm.serving import uploads
from musicfm.serving.drop import drop_page
from musicfm.serving.jobs import RESULTS, Cancelled, Format, Job, Progress, write_result
from musicfm.serving.limits import RequestError
from musicfm.serving.protection import Protection
from musicfm.serving.service import Kept, Service, Slot, shutting_down
from musicfm.serving.swagger import add_docs
from musicfm.serving.tracks import MapPage, described

_TICK_SECONDS = 0.25
_PART = 2**18  # characters
_BROKEN = "something is wrong with the server; its log says what"
_MEDIA = {
    ".npz": "application/octet-stream",
    ".jams": "application/json",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".mid": "audio/midi",
    ".zip": "application/zip",
}

_LINES = ("jams", "html")
"""Formats whose result fits into a line of JSON."""

_log = logging.getLogger(__name__)

Name = Annotated[
    str,
    Query(max_length=1_000, description="What the recording is called: a title, no path."),
    AfterValidator(lambda name: uploads.shown(name) or "recording"),
]


class Error(BaseModel):
    """Why there is no result."""

    error: str


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The recording itself, in any format.",
        "content": {
            media: {"schema": {"type": "string", "format": "binary"}}
            for media in ("audio/*", "video/*", "application/octet-stream")
        },
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": description}
    for status, description in {
        408: "The upload took too long.",
        413: "The upload is too large, or the recording too long.",
        415: "The body has another content type than a recording.",
        422: "The recording cannot be used, or a parameter has no sense.",
        501: "The server has no heads, and gives embeddings alone.",
        503: "The server is busy or shutting down; see Retry-After.",
        504: "The result took too long.",
        507: "The server's disk is full.",
    }.items()
}
_GONE: dict[int | str, dict[str, Any]] = {
    404: {"model": Error, "description": "There is no such job, or no more."},
    409: {"model": Error, "description": "The result is not there yet; see Retry-After."},
}


def _with_result(description: str, *media: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a route: a result of some types, or an error."""
    content: dict[str, Any] = {
        each: {"schema": {"type": "string", "format": "binary"}} if each == _MEDIA[".npz"] else {}
        for each in media
    }
    return {**_ERRORS, 200: {"description": description, "content": content}}


def create_app(service: Service, names: Collection[str] = ()) -> ASGIApp:
    """The application.

    Args:
        service: does the work, and is opened already.
        names: by which the server is called, besides localhost and its addresses.
    """
    api = FastAPI(
        title="musicfm",
        version=musicfm.__version__,
        description="Embeddings and analyses of recordings.",
        docs_url=None,  # they load scripts from other hosts
        redoc_url=None,
    )
    _add_pages(api, service)
    routes = APIRouter(prefix="/v1", dependencies=[Depends(_only_known)])
    _add_embed(routes, service)
    _add_analyze(routes, service)
    _add_jobs(routes, service)
    if service.library is not None:
        _add_library(routes, service, service.library)
        _add_map(api, service.library)
    api.include_router(routes)
    add_docs(api)
    _add_handlers(api)
    return Protection(api, names)


def _add_pages(api: FastAPI, service: Service) -> None:
    page, policy = drop_page(service.limits, service.predictor is not None)

    @api.get("/", include_in_schema=False)
    async def drop() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @api.get("/healthz")
    async def health() -> dict[str, Any]:
        """Whether the server is up, and how many requests it has under way."""
        return {"status": "ok", "version": musicfm.__version__, "requests": service.num_requests}


def _add_embed(routes: APIRouter, service: Service) -> None:
    @routes.post(
        "/embed",
        openapi_extra=_BODY,
        response_class=Response,
        responses=_with_result("An .npz, as `musicfm embed` writes it.", _MEDIA[".npz"]),
    )
    async def embed(
        request: Request,
        name: Name = "recording",
        layer: Annotated[
            list[int] | None,
            Query(description="A hidden state; again for more. Default: that of `musicfm embed`."),
        ] = None,
        pool: Annotated[
            Literal["none", "mean"] | float,
            Query(description="Over time: none, mean, or a rate in Hz up to the model's."),
        ] = "none",
    ) -> Response:
        """Embed a recording."""
        layers = _layers(service.embedder, layer)
        if not isinstance(pool, str) and not 0.0 < pool <= service.embedder.rate:
            raise RequestError(
                422, f"pool is {pool:g}; give none, mean, or up to {service.embedder.rate:g} Hz"
            )
        slot = await _slot(request, service)
        return await _file(request, service, service.embed(slot, name, layers, pool))


def _add_analyze(routes: APIRouter, service: Service) -> None:
    @routes.post(
        "/analyze",
        openapi_extra=_BODY,
        response_class=Response,
        responses=_with_result(
            "JAMS or a page; or, with `progress`, a line of JSON now and then, of which the last "
            "has the result or an error.",
            "application/json",
            "text/html",
            "text/csv",
            "audio/midi",
            "application/zip",
            "application/x-ndjson",
        ),
    )
    async def analyze(
        request: Request,
        name: Name = "recording",
        format: Annotated[
            Format,
            Query(
                description="JAMS; an HTML page that plays the recording; a table (csv); a tempo "
                "map (midi); label tracks for Audacity (labels, as .zip)."
            ),
        ] = "jams",
        progress: Annotated[bool, Query(description="Tell how far it is, as it goes.")] = False,
    ) -> Response:
        """Find beats, chords, sections, key and tags."""
        _check_heads(service)
        if progress and format not in _LINES:
            raise RequestError(422, f"progress goes with {' and '.join(_LINES)}, not with {format}")
        slot = await _slot(request, service)
        job = service.analyze(slot, name, format)
        if progress:
            lines = _lines(request, service, job)
            return StreamingResponse(lines, media_type="application/x-ndjson")
        return await _file(request, service, job)


def _add_jobs(routes: APIRouter, service: Service) -> None:
    @routes.post(
        "/jobs",
        status_code=201,
        openapi_extra=_BODY,
        responses=_ERRORS,
    )
    async def begin(request: Request, name: Name = "recording") -> dict[str, str]:
        """Begin to analyse a recording, and keep the result for an hour: `{"id": ...}`."""
        _check_heads(service)
        slot = await _slot(request, service)
        return {"id": service.begin(slot, name)}

    @routes.get("/jobs/{id}", responses=_GONE)
    async def look(id: str) -> dict[str, Any]:
        """How far an analysis is: waiting, encoding, finishing, done or failed."""
        kept = service.kept(id)
        about = {"name": kept.job.name, **asdict(kept.job.progress)}
        if not kept.job.future.done():
            return about
        try:
            _kept_result(service, kept)
        except RequestError as error:
            failed = {"stage": "failed", "status": error.status, "error": str(error)}
            return about | failed
        return about | {"stage": "done"}

    @routes.get(
        "/jobs/{id}/{format}",
        response_class=Response,
        responses=_GONE,
    )
    async def fetch(id: str, format: Format) -> Response:
        """The result of an analysis, in any format, and again while it is kept."""
        kept = service.kept(id)
        if not kept.job.future.done():
            raise RequestError(409, "the result is not there yet; ask again in a moment", 1)
        _kept_result(service, kept)
        file, title = kept.job.folder / RESULTS[format], kept.job.title
        if format != "jams" and format != "html":  # these are there
            analysis = await run_in_threadpool(Analysis.load, kept.job.folder / RESULTS["jams"])
            await run_in_threadpool(write_result, analysis, format, title, kept.job.folder)
        return _answer(file, title)

    @routes.delete("/jobs/{id}", status_code=204, responses=_GONE)
    async def forget(id: str) -> None:
        """End an analysis, and delete its result."""
        service.forget(id)


def _add_library(routes: APIRouter, service: Service, library: Library) -> None:
    @routes.post(
        "/similar",
        openapi_extra=_BODY,
        response_class=Response,
        responses=_with_result("Tracks of the library, the most similar first.", _MEDIA[".json"]),
    )
    async def similar(
        request: Request,
        name: Name = "recording",
        limit: Annotated[int, Query(ge=1, le=1_000, description="Tracks at most.")] = 10,
    ) -> Response:
        """Find tracks of the library that sound like a recording."""
        slot = await _slot(request, service)
        return await _file(request, service, service.similar(slot, name, limit))

    @routes.get("/tracks")
    def tracks(
        offset: Annotated[int, Query(ge=0, description="Tracks to pass over.")] = 0,
        limit: Annotated[int, Query(ge=1, le=1_000, description="Tracks at most.")] = 100,
    ) -> dict[str, Any]:
        """List the tracks of the library, and how many there are in all."""
        count, part = library.database.page(offset, limit)
        return {"count": count, "tracks": [described(track) for track in part]}

    @routes.get(
        "/tracks/{id}/audio",
        response_class=Response,
        responses={404: {"model": Error, "description": "There is no such track, or no more."}},
    )
    def audio(id: int) -> Response:
        """Get the recording of a track, as it is."""
        known = library.database.tracks("id = ?", [id])
        if not known or not os.path.isfile(known[0].path):
            raise RequestError(404, "there is no such track here")
        return FileResponse(known[0].path, content_disposition_type="inline")


def _add_map(api: FastAPI, library: Library) -> None:
    there = MapPage(library)

    @api.get("/map", include_in_schema=False)
    def map_page() -> Response:
        try:
            page = there.html()
        except MusicFMError as error:
            _log.warning("there is no map: %s", error)
            raise RequestError(503, "the library has nothing to draw yet") from error
        return HTMLResponse(page, headers={"Content-Security-Policy": there.policy})


def _check_heads(service: Service) -> None:
    if service.predictor is None:
        raise RequestError(501, "this server has no heads; ask it for embeddings (/v1/embed)")


def _only_known(request: Request) -> None:
    """Raises RequestError for an unknown parameter: its answer would be that of another."""
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    if unknown := sorted(set(request.query_params) - set(known)):
        there = f"there are {', '.join(known)}" if known else "leave it out"
        raise RequestError(422, f"there is no parameter '{uploads.shown(unknown[0])}'; {there}")


def _layers(embedder: Embedder, asked: list[int] | None) -> list[int]:
    """Those asked for, or the default. Raises RequestError for one that is not there."""
    if not asked:
        (default,) = wanted_layers(embedder.model, None)
        return [default if default in embedder.layers else embedder.layers[-1]]
    if missing := [layer for layer in asked if layer not in embedder.layers]:
        there = ", ".join(map(str, embedder.layers))
        raise RequestError(422, f"there is no layer {missing[0]} here; choose from {there}")
    return sorted(set(asked))


async def _slot(request: Request, service: Service) -> Slot:
    """A slot until the answer is out, with the upload in it."""
    uploads.check(request.headers, service.limits)
    slot: Slot = request.state.exit.enter_context(service.admit())
    await uploads.receive(request.stream(), slot.upload, service.limits)
    return slot


async def _progress(request: Request, service: Service, job: Job) -> AsyncIterator[Progress]:
    """How far a job is, until it has ended.

    Raises:
        RequestError: it takes too long, or the server is to stop.
        ClientDisconnect: nobody waits any more.
    """
    clock = asyncio.get_running_loop()
    deadline, pause = clock.time() + service.limits.work_seconds, 0.01
    while not job.future.done():
        yield job.progress
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, _TICK_SECONDS)
        if await request.is_disconnected():
            raise ClientDisconnect
        if job.is_cancelled:
            raise shutting_down()
        if clock.time() > deadline:
            raise _late(service)


def _late(service: Service) -> RequestError:
    return RequestError(
        504,
        f"the result took longer than {service.limits.work_seconds:g} s; send a shorter recording, "
        "or try later",
    )


def _kept_result(service: Service, kept: Kept) -> Path:
    """As :func:`_result`, of a job that nobody waits for."""
    if kept.is_late:
        raise _late(service)
    return _result(kept.job)


def _result(job: Job) -> Path:
    """Where the result is. Raises RequestError if there is none."""
    try:
        return job.future.result(timeout=0.0)
    except (Cancelled, CancelledError):
        raise shutting_down() from None
    except AudioError as error:
        raise uploads.request_error(error, job.upload, job.name) from error
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(507, "the server has no room for the result; try later", 60) from error
    except Exception as error:
        _log.exception("a job has failed")
        raise RequestError(500, _BROKEN) from error


async def _file(request: Request, service: Service, job: Job) -> Response:
    """The result, once it is there."""
    async for _ in _progress(request, service, job):
        pass
    return _answer(_result(job), job.title)


def _answer(result: Path, title: str) -> Response:
    """A file of results."""
    headers = {}
    if result.suffix == ".html":  # it is another's song: it gets no rights here
        headers["Content-Security-Policy"] = "sandbox allow-scripts allow-downloads"
    return FileResponse(
        result,
        headers=headers,
        media_type=_MEDIA[result.suffix],
        filename=title + result.suffix,
        content_disposition_type="inline" if result.suffix == ".html" else "attachment",
    )


async def _lines(request: Request, service: Service, job: Job) -> AsyncIterator[str]:
    """Progress, then the result or an error, as lines of JSON."""
    before = None
    try:
        async for progress in _progress(request, service, job):
            if progress != before:
                yield json.dumps(asdict(progress)) + "\n"
            before = progress
        async for part in _last_line(_result(job)):
            yield part
    except ClientDisconnect:
        return
    except RequestError as error:
        yield (json.dumps({"stage": "failed", "status": error.status, "error": str(error)}) + "\n")


async def _last_line(result: Path) -> AsyncIterator[str]:
    """A result as the last line of JSON, in parts: it may be large, and its reader slow."""
    quote = "" if result.suffix == ".jams" else '"'
    yield f'{{"stage": "done", "result": {quote}'
    async with await anyio.open_file(result, encoding="utf-8", newline="") as file:
        while part := await file.read(_PART):
            yield json.dumps(part)[1:-1] if quote else part
    yield f"{quote}}}\n"


def _add_handlers(api: FastAPI) -> None:
    """Every error is JSON with one sentence."""

    @api.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        seconds = error.retry_seconds
        headers = {} if seconds is None else {"Retry-After": str(seconds)}
        return _error(error.status, str(error), headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        _, name, *_ = found[0]["loc"]  # in the query, what, and as which of the types it may have
        reasons = [str(part["msg"]) for part in found if part["loc"][1] == name]
        return _error(422, f"{name}: {', or '.join(reasons)}")

    @api.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail), dict(error.headers or {}))

    @api.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return _error(400, "the upload broke off")  # which nobody reads

    @api.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _error(500, _BROKEN)


def _error(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)
