"""The images in the body of ``/classify``: one file as it is, or the files of a form."""

from __future__ import annotations

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from alexnet_deploy.serving.engines.decoding import EncodedImage
from alexnet_deploy.serving.refusals import BadRequestError, UnsupportedMediaError

DEFAULT_NAME = "image"
_LONGEST_NAME = 255
_URLENCODED = "application/x-www-form-urlencoded"


def images_in(request: Request, body: bytes, max_images: int) -> list[EncodedImage]:
    """The images of a request, each with the name that its client gave; nothing with that name is opened.

    Raises BadRequestError for a form that is damaged, holds no file or more than ``max_images`` (the count of
    ``ServedEngine`` is for other requests), UnsupportedMediaError for a body that cannot be images.
    """
    kind = request.headers.get("content-type", "")
    name = _media_type(request)
    if is_form(request):
        return _Form(max_images).read(kind, body)
    if name == "application/json" or name.startswith("text/"):
        raise UnsupportedMediaError(
            f"content type {name}: send an image file as it is, or files as multipart/form-data"
        )
    if name == _URLENCODED and not (b"\n" in body or b"\r" in body):
        # What curl -d sends as well: the file without its line breaks, which can still look like an image. With them,
        # the bytes are whole: curl --data-binary, wget and urllib give every body this type.
        raise UnsupportedMediaError(
            f"content type {name}: is no image, or one that curl -d has damaged; send the file by curl -T, or with the "
            "content type application/octet-stream"
        )
    if not body:
        raise BadRequestError("the body is empty; send an image file")
    return [EncodedImage(_name(request.path_params.get("file")), body)]


def is_form(request: Request) -> bool:
    """Whether the body is a form."""
    return _media_type(request) == "multipart/form-data"


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class _Form:
    """The files of a form whose body is in memory; its other fields are left out."""

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._images: list[EncodedImage] = []
        self._parts = 0
        self._is_whole = False
        self._begin_part()

    def read(self, content_type: str, body: bytes) -> list[EncodedImage]:
        """BadRequestError for a form that is damaged or cut off: its last file would be another one, or be lost."""
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise _invalid("its content type names no boundary")
        try:
            parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._data,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
            parser.write(body)
        except (FormParserError, ValueError) as exc:
            raise _invalid("it cannot be read") from exc
        if not self._is_whole:
            raise _invalid("it is cut off")
        return self._images

    def _begin_part(self) -> None:
        self._disposition = b""
        self._file: str | None = None
        self._content = bytearray()  # many pieces where the boundary nearly occurs
        self._field = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _end_headers(self) -> None:
        self._parts += 1
        options = parse_options_header(self._disposition)[1]
        if b"filename" in options:
            self._file = _text(options[b"filename"])
            if len(self._images) == self._max_images:
                raise _invalid(f"it has more than {self._max_images} files; split it")
        elif self._parts > 2 * self._max_images:
            raise _invalid(f"it has more than {self._max_images} fields beside its files")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._content += data[start:end]

    def _end_part(self) -> None:
        if self._file is not None:
            self._images.append(EncodedImage(_name(self._file), bytes(self._content)))

    def _end(self) -> None:
        self._is_whole = True


def _invalid(reason: str) -> BadRequestError:
    return BadRequestError(f"the form is not valid: {reason}")


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _name(given: str | None) -> str:
    return (given or DEFAULT_NAME)[:_LONGEST_NAME]
