"""The service's routes: inspect, look results up, review them, and ask how it is."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from flawmap.core.documents import document
from flawmap.core.errors import FlawmapError, InputError
from flawmap.service import pictures
from flawmap.service.answers import (
    PICTURES,
    BatchAnswer,
    ResultAnswer,
    ReviewBody,
    answer_of,
    error_answer,
    status_of,
)
from flawmap.service.exports import export_results
from flawmap.service.inspector import Busy, Job, Model
from flawmap.service.state import Service
from flawmap.service.store import Result

router = APIRouter()

PAGE = Path(__file__).parent / "page"


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Running = Annotated[Service, Depends(_service)]
ModelName = Annotated[str | None, Query(description="a model's name; the first one otherwise")]
PointName = Annotated[str | None, Query(description="an operating point of the model; its own otherwise")]


def _chosen(service: Service, model: str | None, point: str | None) -> Model:
    name = model or next(iter(service.models))
    if name not in service.models:
        raise HTTPException(404, f"no model {name!r} here; there is {', '.join(service.models)}")
    try:
        service.models[name].detector(point)
    except InputError as error:
        raise HTTPException(404, str(error)) from None
    return service.models[name]


def _body(field: str, *, many: bool) -> dict[str, Any]:
    """What OpenAPI says of a body of files."""
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {field: {"type": "array", "items": file} if many else file}}
    plain = {} if many else {"application/octet-stream": {"schema": file}}
    return {"requestBody": {"required": True, "content": plain | {"multipart/form-data": {"schema": form}}}}


# ------------------------------------------------------------------------------------------------------------- inspect


@router.post("/v1/inspect", response_model=ResultAnswer, openapi_extra=_body("image", many=False))
async def inspect(
    request: Request, service: Running, model: ModelName = None, point: PointName = None, name: str = "image"
) -> Any:
    """Inspect one image: the body is the file itself, or a form with the field `image`."""
    known = _chosen(service, model, point)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=8) as form:
            upload = form.get("image")
            if not isinstance(upload, UploadFile):
                raise HTTPException(422, "the form has no file in its field `image`")
            image, name = await service.incoming.of_upload(upload), upload.filename or name
    else:
        image = await service.incoming.of_stream(request.stream())
    result = await asyncio.wrap_future(service.inspector.submit(Job(image, name, known, point)))
    service.measures.count(result)
    return answer_of(result)


@router.post("/v1/inspect/batch", response_model=BatchAnswer, openapi_extra=_body("images", many=True))
async def inspect_batch(
    request: Request, service: Running, model: ModelName = None, point: PointName = None
) -> dict[str, Any]:
    """Inspect several images, the files of the form's field `images`; one that cannot be read harms no other."""
    known = _chosen(service, model, point)
    answers: list[dict[str, Any]] = []
    waiting: list[tuple[int, Future[Result]]] = []
    async with request.form(max_files=service.limits.batch, max_fields=8) as form:
        uploads = [one for one in form.getlist("images") if isinstance(one, UploadFile)]
        if not uploads:
            raise HTTPException(422, "the form has no files in its field `images`")
        for place, upload in enumerate(uploads):
            answers.append({"name": upload.filename or "image"})
            while True:
                try:
                    image = await service.incoming.of_upload(upload)
                    future = service.inspector.submit(Job(image, answers[-1]["name"], known, point))
                except InputError as error:
                    answers[-1] |= _failure(service, error)
                except Busy:  # its own images make room, one after the other
                    if not waiting:
                        raise
                    before, first = waiting.pop(0)
                    answers[before] = await _settled(service, first, answers[before])
                    continue
                else:
                    waiting.append((place, future))
                break
    for place, future in waiting:
        answers[place] = await _settled(service, future, answers[place])
    return document("batch", {"results": answers})


async def _settled(service: Service, future: Future[Result], entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of an image of a batch: its result, or why it has none."""
    try:
        result = await asyncio.wrap_future(future)
    except FlawmapError as error:
        return entry | _failure(service, error)
    service.measures.count(result)
    return answer_of(result)


def _failure(service: Service, error: FlawmapError) -> dict[str, Any]:
    code = status_of(error)[1]
    service.measures.failed.labels(code).inc()
    return {"error": {"code": code, "message": str(error)}}


# ------------------------------------------------------------------------------------------------------------- results


def _found(service: Service, number: str) -> Result:
    result = service.store.get(number)
    if result is None:
        raise HTTPException(404, f"no result {number!r}")
    return result


@router.get("/v1/results", response_model=list[ResultAnswer])
def results(
    service: Running,
    *,
    before: str | None = None,
    model: str | None = None,
    verdict: Literal["ok", "flawed"] | None = None,
    review: Literal["accept", "reject", "none"] | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[dict[str, Any]]:
    """The newest first; `before` is the id of the last one of the page before."""
    rows = service.store.newest(before=before, model=model, verdict=verdict, review=review, limit=limit)
    return [answer_of(row) for row in rows]


@router.get("/v1/export", response_class=Response)
def export(
    service: Running,
    to: Literal["csv", "jsonl", "coco"],
    *,
    model: str | None = None,
    verdict: Literal["ok", "flawed"] | None = None,
    review: Literal["accept", "reject", "none"] | None = None,
) -> Response:
    """All results, or those that are chosen, as a file: CSV, JSON lines or COCO."""
    rows = service.store.newest(model=model, verdict=verdict, review=review, limit=None)
    with tempfile.TemporaryDirectory(dir=service.store.folder) as folder:
        path = Path(folder) / "results"
        export_results([row.to_dict() for row in rows], to, path)
        content = path.read_bytes()
    kind = {"csv": "text/csv", "jsonl": "application/x-ndjson", "coco": "application/json"}[to]
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="results.{to}"'})


@router.get("/v1/results/{number}", response_model=ResultAnswer)
def result(service: Running, number: str) -> dict[str, Any]:
    """One result."""
    return answer_of(_found(service, number))


@router.patch("/v1/results/{number}", response_model=ResultAnswer)
def review_result(service: Running, number: str, body: ReviewBody) -> dict[str, Any]:
    """Accept or reject a result, with a note."""
    _found(service, number)
    changed = service.store.review(number, body.review, body.note)
    assert changed is not None
    service.live.tell(changed)
    return answer_of(changed)


@router.get("/v1/results/{number}/{picture}", response_class=Response)
def picture(service: Running, number: str, picture: str, threshold: float | None = None) -> Response:
    """`mask.png`, `overlay.png`, `evidence.png`, `evidence.tif` (float32), `map` (float32, by rows) or `image.png`.

    threshold: for the mask and the overlay, instead of the result's.
    """
    row = _found(service, number)
    if threshold is not None:
        row = replace(row, threshold=threshold)
    if picture not in PICTURES:
        raise HTTPException(404, f"no picture {picture!r}; there is {', '.join(PICTURES)}")
    try:
        if row.bytes and row.model in service.models:
            return pictures.answer(picture, row, service.store, service.models[row.model])
    except FileNotFoundError:
        pass
    raise HTTPException(404, f"image and map of the result {number} are not kept")


@router.get("/v1/events", response_class=StreamingResponse)
async def events(service: Running) -> StreamingResponse:
    """Server-sent events: each new or reviewed result, as it is stored."""

    async def lines() -> AsyncIterator[str]:
        yield ": connected\n\n"
        async for one in service.live.listen():
            yield ": alive\n\n" if one is None else f"id: {one.id}\ndata: {json.dumps(answer_of(one))}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


# ---------------------------------------------------------------------------------------------------------------- page


@router.get("/", include_in_schema=False)
def page() -> Response:
    return _file("index.html")


@router.get("/page/{name}", include_in_schema=False)
def page_file(name: str) -> Response:
    if name not in {path.name for path in PAGE.iterdir()}:
        raise HTTPException(404, f"no file {name!r} of the page")
    return _file(name)


def _file(name: str) -> Response:
    kind = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    suffix = Path(name).suffix
    text = f"{kind[suffix]}; charset=utf-8"
    return Response((PAGE / name).read_bytes(), media_type=text, headers={"Cache-Control": "no-cache"})


# -------------------------------------------------------------------------------------------------------------- itself


@router.get("/v1/models")
def models(service: Running) -> list[dict[str, Any]]:
    """The models that are here; the first one is taken where a request names none."""
    return [pictures.card(one) for one in service.models.values()]


@router.get("/healthz")
def healthy() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(request: Request, service: Running) -> Response:
    """It takes images: models are loaded, and the queue has room."""
    full = service.inspector.waiting >= service.limits.queue
    if full or not request.app.state.ready:
        return error_answer(503, "busy", "the queue is full" if full else "starting or stopping")
    return JSONResponse({"status": "ready", "waiting": service.inspector.waiting})


@router.get("/metrics", response_class=Response)
def metrics(service: Running) -> Response:
    """Counts and times for Prometheus."""
    service.measures.waiting.set(service.inspector.waiting)
    return service.measures.answer()
