"""`flawmap serve`: models over HTTP until the process is told to end."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flawmap.core.errors import ConfigError, InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.runtime import Runtime
from flawmap.imaging.threads import one_opencv_thread


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Where results go. store: a folder. keep_images: whether images and maps are kept; keep_days, keep_gigabytes: how
    long. mqtt, webhook: addresses that results are published to."""

    store: Path = Path("flawmap-results")
    keep_images: bool = True
    keep_days: float | None = None
    keep_gigabytes: float = 10.0
    mqtt: str | None = None
    webhook: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServeOptions(StoreOptions):
    """host, port: to listen on; port 0: any free one. token_file: None: FLAWMAP_TOKEN, if it is set. allow_hosts: names
    in the Host header besides this machine's. queue: images that may wait or be under work. megabytes: of a request."""

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    allow_hosts: tuple[str, ...] = ()
    queue: int = 32
    megabytes: float = 64.0


def serve(
    models: Sequence[Path],
    options: ServeOptions | None = None,
    *,
    runtime: Runtime | None = None,
    roi_masks: Path | None = None,
    events: Events = SILENT,
) -> None:
    """Serve until Ctrl-C or SIGTERM; what is under work is finished first.

    Args:
        models: files, or folders that hold some.
    Raises:
        ConfigError: two models of one name, an address that needs a token, or a port that is taken. InputError: a
            package of the extra `serve` is missing. ArtifactError: a model cannot be read. OutputError: the store.
    """
    options = options or ServeOptions()
    try:
        from flawmap.service.access import LOCAL, token_of  # noqa: PLC0415 - an extra
        from flawmap.service.inspector import loaded_models  # noqa: PLC0415
        from flawmap.service.publish import destinations_of  # noqa: PLC0415
        from flawmap.service.server import Server  # noqa: PLC0415
        from flawmap.service.state import Limits, Service  # noqa: PLC0415
        from flawmap.service.store import Retention, Store  # noqa: PLC0415

        destinations = destinations_of(options.mqtt, options.webhook)
    except ModuleNotFoundError as error:
        raise missing(error) from None
    token = token_of(options.host, options.token_file)
    known = loaded_models(models, runtime or Runtime(), roi_masks)
    listening = _listening(options.host, options.port)
    store = Store(options.store, Retention(options.keep_days, options.keep_gigabytes))
    limits = Limits(options.queue, options.megabytes)
    service = Service.of(known, store, limits, keep=options.keep_images, destinations=destinations)
    hosts = tuple(dict.fromkeys((*LOCAL, options.host, *options.allow_hosts)))
    host, port = listening.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    events.message(f"serving {', '.join(known)} on http://{where}:{port}/, results in {options.store}; Ctrl-C ends it")
    with one_opencv_thread():
        Server(service, hosts=hosts, token=token).run([listening])


def missing(error: ModuleNotFoundError) -> InputError:
    """What to do without a package of the extra."""
    return InputError(f"a service needs the package {error.name}, which is not installed; pip install 'flawmap[serve]'")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. ConfigError: it is taken, or no address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror}; name another --port or --host"
        ) from None
    return found
