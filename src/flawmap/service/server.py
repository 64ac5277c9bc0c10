"""The process that listens: uvicorn, which ends listeners' streams first when it is told to stop."""

from __future__ import annotations

import socket

import uvicorn

from flawmap.service.access import LOCAL
from flawmap.service.api import application
from flawmap.service.state import Service

STOP_SECONDS = 30  # that requests have to end, once the process is told to


class Server(uvicorn.Server):
    """Serves a service. hosts: names it answers to. token: None: nobody needs one."""

    def __init__(
        self, service: Service, *, hosts: tuple[str, ...] = LOCAL, token: str | None = None, port: int = 0
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application(service, hosts=hosts, token=token),
                port=port,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is under work is answered; streams of events, which never end by themselves, end now."""
        self._service.live.close()
        await super().shutdown(sockets)
