"""Exported models: a network as ONNX or OpenVINO reads it, with flawmap's JSON header in it or beside it.

ONNX: one file, the header in its metadata. OpenVINO: `NAME.xml`, `NAME.bin` and the header, `NAME.json`. Where an image
is encoded once, the encoder lies beside, as `NAME.onnx-encoder`, or `NAME.xml-encoder` and `NAME.bin-encoder`. A digest
over header and network tells damage. Neither engine is needed to read them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flawmap.core.errors import ArtifactError
from flawmap.core.files import atomic
from flawmap.core.tensor_file import DIGEST
from flawmap.nets.engines import Graph

SUFFIXES = {".onnx": "onnx", ".xml": "openvino"}
"""File names of exported models, and their formats."""

SUFFIX = {form: suffix for suffix, form in SUFFIXES.items()}
"""The other way round."""

_ENTRY = b"\n\x07flawmap\x12"  # of ONNX's metadata: field 1 with the key, and the tag of field 2, the value
_METADATA = b"\x72"  # the tag of ModelProto.metadata_props


def write_exported(path: Path, header: dict[str, Any], graph: Graph) -> None:
    """Write beside, then rename. header: JSON's types, finite numbers.

    Raises:
        ArtifactError: the path's suffix is not that of the format.
    """
    if SUFFIXES.get(path.suffix.lower()) != graph.format:
        raise ArtifactError(f"a model exported to {graph.format} is a {SUFFIX[graph.format]} file, got {path}")
    text = json.dumps(header | {DIGEST: _digest(header, graph)}, allow_nan=False)
    if graph.encoder is not None:
        encoder = _encoder_of(path)
        _write(encoder, graph.encoder.model)
        if graph.encoder.weights:
            _write(_encoder_of(path.with_suffix(".bin")), graph.encoder.weights)
    if graph.format == "onnx":
        _write(path, graph.model + _metadata(text.encode()))
        return
    _write(path.with_suffix(".bin"), graph.weights)
    _write(path.with_suffix(".json"), text.encode())
    _write(path, graph.model)


def _write(path: Path, content: bytes) -> None:
    with atomic(path, durable=True) as part:
        part.write_bytes(content)


def read_exported(path: Path) -> tuple[str, Graph]:
    """The header's text, unchecked, and the network.

    Raises:
        ArtifactError: a file is missing, or the header.
    """
    try:
        if path.suffix.lower() == ".onnx":
            model, text = _parted(path.read_bytes())
            graph = Graph("onnx", model)
        else:
            graph = Graph("openvino", path.read_bytes(), path.with_suffix(".bin").read_bytes())
            text = path.with_suffix(".json").read_bytes().decode()
        if _encodes_images(text):
            encoder = _encoder_of(path)
            weights = _encoder_of(path.with_suffix(".bin")).read_bytes() if graph.weights else b""
            graph = graph._replace(encoder=Graph(graph.format, encoder.read_bytes(), weights))
    except OSError as error:
        raise ArtifactError(f"no exported model {path}: {error.strerror} ({error.filename})") from None
    except ValueError:
        raise ArtifactError(
            f"{path} is no model that flawmap exported, or is damaged: it has no flawmap header; expected a file "
            "written by `flawmap export`"
        ) from None
    return text, graph


def _encoder_of(path: Path) -> Path:
    """The file beside, of the encoder by itself."""
    return path.with_name(f"{path.name}-encoder")


def _encodes_images(text: str) -> bool:
    """Whether a header, unchecked, says that the encoder is a file of its own. ValueError: it is no JSON."""
    header = json.loads(text)
    try:
        return bool(header["config"]["tiling"]["encoder"] == "image")
    except (KeyError, TypeError):
        return False


def identity_of(path: Path) -> Path:
    """The file that changes with any part of a model: OpenVINO's header holds the digest of all three files."""
    return path.with_suffix(".json") if SUFFIXES.get(path.suffix.lower()) == "openvino" else path


def check_exported(path: Path, text: str, graph: Graph) -> None:
    """Raises ArtifactError where the header or the network is not what was written; text: of the header."""
    header = dict(json.loads(text))
    if header.pop(DIGEST, None) != _digest(header, graph):
        raise ArtifactError(
            f"{path} is damaged: its content does not have the SHA-256 that stands in it; copy it again or export anew"
        )


def _digest(header: dict[str, Any], graph: Graph) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, allow_nan=False).encode())
    for part in (graph, graph.encoder):
        if part is not None:
            digest.update(part.model)
            digest.update(part.weights)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------------- ONNX


def _metadata(text: bytes) -> bytes:
    """The header as a part of an ONNX file. Fields of a protobuf message may be appended: the graph stays as it is."""
    entry = _ENTRY + _varint(len(text)) + text
    return _METADATA + _varint(len(entry)) + entry


def _parted(data: bytes) -> tuple[bytes, str]:
    """The graph and the header's text of an ONNX file. ValueError: there is none."""
    at = data.rindex(_ENTRY)
    start = data.rindex(_METADATA, 0, at)
    length, begin = _read_varint(data, at + len(_ENTRY))
    if begin + length != len(data):
        raise ValueError("the header is not the last part")
    return data[:start], data[begin:].decode()


def _varint(value: int) -> bytes:
    """Protobuf's whole numbers: 7 bits a byte, lowest first, the highest bit says that more follow."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """The number there, and the place behind it."""
    value = shift = 0
    while True:
        if place >= len(data) or shift > 35:
            raise ValueError("a number without an end")
        byte = data[place]
        value |= (byte & 127) << shift
        shift, place = shift + 7, place + 1
        if byte < 128:
            return value, place
