"""Files of pretrained weights: which are known, where they lie, and how they are downloaded.

flawmap uses the internet here alone, and only for `flawmap weights fetch`. A download must have the SHA-256 that stands
here before it is written. Imports neither torch nor NumPy.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from flawmap.core.errors import InputError
from flawmap.core.events import SILENT, Events
from flawmap.core.files import atomic, cache_folder, sha256_of, writable_folder
from flawmap.core.settings import FeatureName, FeatureSettings

CHUNK = 1 << 20  # bytes read at once, and the unit of progress
LARGEST = 1 << 30  # bytes; a longer file is none of these
TIMEOUT = 30.0  # seconds without an answer
SCHEMES = ("https", "file")  # plain http could be changed on the way


class Pinned(NamedTuple):
    """A published file of weights. sha256: in hexadecimal, or as many of its first digits as are published."""

    url: str
    sha256: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


# torchvision's own files. The last 8 digits of such a name are the first of the file's SHA-256. AlexNet's whole digest
# is the one that independent projects record for this file; of the others' none but the 8 are published.
PINNED: dict[FeatureName, Pinned] = {
    "alexnet": Pinned(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "squeezenet": Pinned("https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth", "b66bff10"),
    "resnet18": Pinned("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd"),
}


def weights_folder() -> Path:
    """Where fetched weights lie: `weights` in the cache folder."""
    return cache_folder() / "weights"


def weights_file(settings: FeatureSettings) -> Path:
    """The file of weights that the settings name, or else the fetched one.

    Raises:
        InputError: there is no such file.
    """
    if settings.weights is not None:
        if not settings.weights.is_file():
            raise InputError(
                f"no file of weights {settings.weights}; expected {settings.network}'s as .pth or .safetensors: name "
                "another one with --set method.features.weights=FILE"
            )
        return settings.weights
    path = weights_folder() / PINNED[settings.network].file
    if not path.is_file():
        raise InputError(
            f"the pretrained weights of {settings.network} are needed, but there is no {path}; get them with "
            f"`flawmap weights fetch {settings.network}`, or name a file with --set method.features.weights=FILE"
        )
    return path


def weights_summary(settings: FeatureSettings) -> dict[str, str]:
    """What a reader of figures needs to know of a feature network: its name, its file's, and that file's SHA-256."""
    path = weights_file(settings)
    return {"network": settings.network, "file": path.name, "sha256": sha256_of(path)}


def known_weights() -> dict[str, Any]:
    """The known files and the state of each: `absent`, `there`, or `damaged` if its digest is another."""
    folder = weights_folder()
    rows = []
    for network, pinned in PINNED.items():
        path = folder / pinned.file
        state = "absent" if not path.is_file() else "there" if _is(path, pinned) else "damaged"
        size = None if state == "absent" else path.stat().st_size
        rows.append({"network": network, "state": state, "bytes": size, "file": str(path), **pinned._asdict()})
    return {"folder": str(folder), "weights": rows}


def fetch_weights(
    network: FeatureName, *, url: str | None = None, out: Path | None = None, events: Events = SILENT
) -> Path:
    """Download the published weights of a network. A file that is there already and is the right one is left alone.

    Args:
        url: where a copy of the very same file lies, https:// or file://; None: where it was published.
        out: the file to write; None: where trainings look for it, in `weights_folder`.
        events: receive both places before the download begins, then the progress in megabytes.
    Raises:
        InputError: the address cannot be read, or holds another file. OutputError: the file cannot be written.
    """
    pinned = PINNED[network]
    source, target = url or pinned.url, out or weights_folder() / pinned.file
    _checked_scheme(source)
    if target.is_dir():
        raise InputError(f"{target} is a folder, the weights are a file; name one in it: -o {target / pinned.file}")
    if target.exists():
        if _is(target, pinned):
            events.message(f"{target} is there already, and is what was published")
            return target
        raise InputError(
            f"{target} exists, and is not {pinned.file} as published (SHA-256 {pinned.sha256}); remove it to fetch "
            "that, or name another place with -o"
        )
    writable_folder(target.absolute().parent)
    events.message(f"fetching {source} to {target}")
    content = _download(source, target.name, events)
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(pinned.sha256):
        raise InputError(
            f"{source} is not {pinned.file} as published: expected the SHA-256 {pinned.sha256}, got "
            f"{found[: len(pinned.sha256)]}; nothing was kept: try again, or another --url"
        )
    with atomic(target, durable=True) as part:
        part.write_bytes(content)
    return target


def _is(path: Path, pinned: Pinned) -> bool:
    return sha256_of(path).startswith(pinned.sha256)


def _checked_scheme(url: str) -> None:
    if url.partition("://")[0].lower() not in SCHEMES or "://" not in url:
        raise InputError(f"an address must begin with https:// or file://, got {url}; give another --url")


def _download(url: str, name: str, events: Events) -> bytearray:
    """The content at an address; every megabyte is progress. InputError: it cannot be fetched, or is too long."""
    import http.client  # noqa: PLC0415 - of a download alone
    import urllib.request  # noqa: PLC0415

    content = bytearray()
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            final, announced = response.url, int(response.headers.get("Content-Length") or 0)
            total = max(1, announced // CHUNK)
            while len(content) <= LARGEST and (chunk := response.read(CHUNK)):
                content += chunk
                events.progress(min(len(content) // CHUNK, total), total, f"MB of {name}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise InputError(
            f"{url} cannot be fetched: {getattr(error, 'reason', None) or error}; check the address and the "
            "connection, or fetch the file by other means and name it with "
            "`flawmap train --method fm --set method.features.weights=FILE`"
        ) from error
    _checked_scheme(final)  # after redirections
    if len(content) > LARGEST:
        raise InputError(f"{url} is longer than {LARGEST >> 20} MB, and no file of weights; give another --url")
    return content
