"""The service as an ASGI application: its life, its guards and its errors around the routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from flawmap.core.errors import FlawmapError
from flawmap.service.access import LOCAL, Access, TooLarge
from flawmap.service.answers import error_answer, status_of
from flawmap.service.inspector import Busy
from flawmap.service.routes import router
from flawmap.service.state import Service

PRUNE_SECONDS = 60.0
RETRY_SECONDS = 1


def application(service: Service, *, hosts: tuple[str, ...] = LOCAL, token: str | None = None) -> FastAPI:
    """The application that serves these models. hosts: names it answers to. token: None: nobody needs one."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.live.loop = asyncio.get_running_loop()
        pruning = asyncio.create_task(_prune(service))
        app.state.ready = True
        yield
        app.state.ready = False
        pruning.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="flawmap",
        summary="Maps of flaws, with a decision that keeps a known rate of false alarms.",
        version="1",
        lifespan=life,
        docs_url=None,  # both load scripts from elsewhere; /openapi.json is served
        redoc_url=None,
    )
    app.state.service, app.state.ready = service, False
    app.include_router(router)
    _guarded(app)
    app.add_middleware(Access, hosts=hosts, token=token, largest=int(1e6 * service.limits.megabytes))
    return app


def _guarded(app: FastAPI) -> None:
    """Every error is JSON of one shape."""
    measures = app.state.service.measures

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        measures.refused.inc()
        return error_answer(503, "busy", str(error), {"Retry-After": str(RETRY_SECONDS)})

    @app.exception_handler(TooLarge)
    async def large(request: Request, error: TooLarge) -> Response:
        return error_answer(413, "too large", str(error))

    @app.exception_handler(FlawmapError)
    async def ours(request: Request, error: FlawmapError) -> Response:
        status, code = status_of(error)
        measures.failed.labels(code).inc()
        return error_answer(status, code, str(error))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        code = {404: "not found", 405: "method"}.get(error.status_code, "request")
        return error_answer(error.status_code, code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return error_answer(422, "request", said)


async def _prune(service: Service) -> None:
    while True:
        await asyncio.to_thread(service.store.prune)
        await asyncio.sleep(PRUNE_SECONDS)
