"""Bodies of requests as files of their own, named by the service alone."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.datastructures import UploadFile

from flawmap.core.errors import InputError
from flawmap.core.files import unwritable


class Incoming:
    """A folder for images on their way. What an earlier process left there is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def _new(self) -> Path:
        return self.folder / secrets.token_hex(12)

    async def of_stream(self, chunks: AsyncIterator[bytes]) -> Path:
        """A body as it comes. OutputError: the disk is full."""
        path = self._new()
        try:
            with path.open("wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise unwritable(path, error) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return _not_empty(path)

    async def of_upload(self, upload: UploadFile) -> Path:
        """A file of a form. OutputError: the disk is full."""
        path = self._new()

        def copy() -> None:
            upload.file.seek(0)
            with path.open("wb") as file:
                shutil.copyfileobj(upload.file, file)

        try:
            await asyncio.to_thread(copy)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise unwritable(path, error) from error
        return _not_empty(path)


def _not_empty(path: Path) -> Path:
    if path.stat().st_size == 0:
        path.unlink(missing_ok=True)
        raise InputError("the image is empty: 0 bytes came; send the file as the body, or in the form's field `image`")
    return path
