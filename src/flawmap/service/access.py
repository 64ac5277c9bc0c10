"""Who may ask the service: by its own names, with a token unless from this machine, and not too many bytes."""

from __future__ import annotations

import hmac
import os
from ipaddress import ip_address
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flawmap.core.errors import ConfigError, InputError
from flawmap.service.answers import SAFE, error_answer

LOCAL = ("127.0.0.1", "localhost", "::1")
TOKEN = "FLAWMAP_TOKEN"  # an environment variable
OPEN = ("/healthz", "/readyz")  # paths that tell nothing
PAGE = ("/", "/page/")  # the page asks for the token itself
SHORTEST = 16  # letters of a token


def is_local(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOCAL


def token_of(host: str, file: Path | None) -> str | None:
    """The token from a file, or from the environment's FLAWMAP_TOKEN; None: there is none, and none is needed.

    Raises:
        ConfigError: another address than this machine's without a token, or one that is too short.
        InputError: the file cannot be read.
    """
    token = os.environ.get(TOKEN)
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise InputError(f"the token's file {file} cannot be read: {error}") from None
    if token is None and not is_local(host):
        raise ConfigError(
            f"listening on {host} needs a token, or anyone in the network may ask; name a file that holds one "
            f"(--token-file), set {TOKEN}, or listen on 127.0.0.1"
        )
    if token is not None and len(token) < SHORTEST:
        raise ConfigError(f"the token must have {SHORTEST} letters or more, got {len(token)}")
    return token


class Access:
    """ASGI middleware: refuses other hosts, missing or wrong tokens and bodies that are too large, and gives every
    answer the safe headers.

    hosts: names in the Host header that are answered. token: None: nobody needs one. largest: bytes of a body.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...], token: str | None, largest: int) -> None:
        self.app, self.hosts, self.token, self.largest = app, hosts, token, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)

        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    answered.setdefault(name, value)
            await send(message)

        if refusal is not None:
            await error_answer(*refusal)(scope, receive, safe)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.largest:
                raise TooLarge(self.largest)
            return message

        await self.app(scope, counted, safe)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str, str] | None:
        host = (
            headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
        )
        if host.strip("[]") not in self.hosts:
            return 400, "host", f"the host {host!r} is not answered here; start the service with --allow-host"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.largest:
            return 413, "too large", f"a request has at most {self.largest:,} bytes, got {length}"
        if self.token is None or path in OPEN or path == PAGE[0] or path.startswith(PAGE[1]):
            return None
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "token", "send the header Authorization: Bearer TOKEN with the service's token"
        return None


class TooLarge(Exception):
    """A body turned out to be larger than it may be."""

    def __init__(self, largest: int) -> None:
        super().__init__(f"a request has at most {largest:,} bytes, this one has more")
