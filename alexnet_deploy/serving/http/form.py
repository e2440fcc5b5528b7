"""The images in the body of ``/classify``: one file as it is, or the files of a form."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import python_multipart  # noqa: F401 - Starlette needs it for forms, and would notice only then that it is missing
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from alexnet_deploy.serving.decoding import EncodedImage
from alexnet_deploy.serving.refusals import BadRequestError, UnsupportedMediaError

DEFAULT_NAME = "image"
_LONGEST_NAME = 255


class _InMemory(MultiPartParser):
    """Starlette's parser; the body is in memory already, so its files need not go to the disk."""

    spool_max_size = 1 << 62


async def images_in(request: Request, body: bytes, max_images: int) -> list[EncodedImage]:
    """The images of a request, each with the name that its client gave; nothing with that name is opened.

    Raises BadRequestError for a form that is damaged, holds no file or more than ``max_images`` (the count of
    ``ServedEngine`` is for other requests), UnsupportedMediaError for a body that cannot be images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _files(request, body, max_images)
    if kind == "application/json" or kind.startswith("text/"):
        raise UnsupportedMediaError(
            f"content type {kind}: send an image file as it is, or files as multipart/form-data"
        )
    if not body:
        raise BadRequestError("the body is empty; send an image file")
    return [EncodedImage(_name(request.path_params.get("file")), body)]


async def _files(request: Request, body: bytes, max_images: int) -> list[EncodedImage]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemory(request.headers, stream(), max_files=max_images, max_fields=max_images)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as exc:
        for file in parser._files_to_close_on_error:  # Starlette itself closes them after its own exception only
            file.close()
        reason = exc.message if isinstance(exc, MultiPartException) else "it cannot be read"
        raise BadRequestError(f"the form is not valid: {reason}") from exc
    try:
        uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        return [EncodedImage(_name(upload.filename), await upload.read()) for upload in uploads]
    finally:
        await form.close()


def _name(given: str | None) -> str:
    return (given or DEFAULT_NAME)[:_LONGEST_NAME]
