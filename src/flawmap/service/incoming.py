"""Images on their way in, of requests and of folders, as files of their own that the service alone names."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from starlette.datastructures import UploadFile

from flawmap.core.errors import InputError
from flawmap.core.files import unwritable


class Incoming:
    """A folder for images on their way. What an earlier process left there is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    async def of_stream(self, chunks: AsyncIterator[bytes]) -> Path:
        """A body as it comes. InputError: it is empty. OutputError: the disk is full."""
        with self._new() as path:
            with path.open("wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
            return _not_empty(path)

    async def of_upload(self, upload: UploadFile) -> Path:
        """A file of a form. InputError: it is empty. OutputError: the disk is full."""
        upload.file.seek(0)
        with self._new() as path:
            await asyncio.to_thread(_copy, upload.file, path)
            return _not_empty(path)

    def of_file(self, source: Path) -> Path:
        """A copy of a file. InputError: it cannot be opened. OutputError: the disk is full."""
        try:
            file = source.open("rb")
        except OSError as error:
            raise InputError(f"{source} cannot be read: {error.strerror}") from error
        with file, self._new() as path:
            _copy(file, path)
            return path

    @contextmanager
    def _new(self) -> Iterator[Path]:
        """A file to be made; it goes if that fails, by an OutputError if it was for the disk."""
        path = self.folder / secrets.token_hex(12)
        try:
            yield path
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise unwritable(path, error) from error
            raise


def _copy(source: BinaryIO, path: Path) -> None:
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)


def _not_empty(path: Path) -> Path:
    if path.stat().st_size == 0:
        raise InputError("the image is empty: 0 bytes came; send the file as the body, or in the form's field `image`")
    return path
