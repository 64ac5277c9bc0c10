"""Files of tensors with a JSON header and a digest over both: safetensors, never pickle. Models and checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors

from flawmap.core.errors import ArtifactError
from flawmap.core.files import atomic

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "sha256"  # in the header: of its other parts and of the tensors


def save_tensors(path: Path, key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write beside, then rename: a kill at any moment leaves the old file or the new one.

    Args:
        key: the header's name in the file's metadata. header: JSON's types, finite numbers.
    """
    from safetensors.torch import save  # noqa: PLC0415 - headers are read without torch

    # A .contiguous() copy: safetensors stores values in row order, whatever their layout in memory.
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = _text({**header, DIGEST: digest_of(header, stored)})
    blob = save(stored, metadata={key: text})  # one entry: safetensors keeps no order of several
    with atomic(path, durable=True) as part:
        part.write_bytes(blob)


def load_tensors(path: Path, key: str, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file, after their digest was checked.

    Args:
        remedy: what to do with a damaged file, for the message.

    Raises:
        ArtifactError: a bit of it is not what was written. ValueError, OSError, KeyError, SafetensorError: not such a
            file at all.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    header = dict(json.loads(metadata[key]))
    if header.pop(DIGEST, None) != digest_of(header, tensors):
        raise ArtifactError(f"{path} is damaged: its content does not have the SHA-256 that stands in it; {remedy}")
    return header, tensors


def read_metadata(path: Path, key: str) -> str | None:
    """The text of the header alone, unchecked and quick. None: the file has no such header."""
    with safetensors.safe_open(path, framework="np") as file:
        return (file.metadata() or {}).get(key)


def digest_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a header and tensors: their names, types, shapes and bytes."""
    import torch  # noqa: PLC0415 - as above

    digest = hashlib.sha256(_text(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, allow_nan=False)
