"""Compressed bodies: ``Content-Encoding`` of a request, ``Accept-Encoding`` of an answer."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from alexnet_deploy.serving.budget import BodyBudget
from alexnet_deploy.serving.refusals import BadRequestError, TooLargeError, UnsupportedMediaError

_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_GZIP_MAGIC = b"\x1f\x8b"
_STEP = 1 << 20  # bytes that are read and written at a time: they count in the budget before there are more
_MOST_MEMBERS = 10_000  # of 64 KiB each, as bgzip writes them, above half a gigabyte; empty ones would keep us busy
_SMALLEST = 1 << 10  # a smaller answer fits into one packet anyway
_UNPACK_HERE, _PACK_HERE = 4 << 10, 64 << 10  # bytes up to which changing threads takes longer than the work
_LEVEL = 1  # tensors of floats hardly shrink further, and higher levels take several times as long


@asynccontextmanager
async def unpacked(body: bytes, encoding: str, max_body: int, budget: BodyBudget) -> AsyncIterator[bytes]:
    """``body`` without its ``encoding``; its memory counts until the end of the block.

    Raises UnsupportedMediaError for an encoding other than gzip and deflate, TooLargeError as soon as it becomes larger
    than ``max_body``, BusyError where the bodies of others take all memory, BadRequestError for bytes that are not of
    that encoding, or cut off.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        yield body
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedMediaError(
            f"content encoding {encoding}: is not read; send the body as it is, or as gzip or deflate"
        )
    held = 0
    pieces: list[bytes] = []
    try:
        async for piece in _pieces(body, encoding):
            if held + len(piece) > max_body:
                raise TooLargeError(f"the body has more than {max_body} bytes unpacked; send fewer or smaller images")
            budget.hold(len(piece))
            held += len(piece)
            pieces.append(piece)
        yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
    except zlib.error as exc:
        raise BadRequestError(f"the body is not {encoding}: {exc}") from exc
    finally:
        budget.hold(-held)


async def _pieces(body: bytes, encoding: str) -> AsyncIterator[bytes]:
    """The content in pieces of at most ``_STEP``. gzip can have several members, one after the other."""
    bits = _GZIP if "gzip" in encoding else _ZLIB if _has_zlib_header(body) else _RAW
    rest, members = memoryview(body), 0
    unpacker: Any = None
    while rest:
        if unpacker is None:
            members += 1
            is_another = bits == _GZIP and bytes(rest[:2]) == _GZIP_MAGIC
            if members > _MOST_MEMBERS or (members > 1 and not is_another):
                raise zlib.error(f"{len(rest)} bytes follow its end")
            unpacker = zlib.decompressobj(bits)
        fed = rest[:_STEP]
        piece = await _in_thread(len(body) > _UNPACK_HERE, unpacker.decompress, fed, _STEP)
        rest = rest[len(fed) - len(unpacker.unconsumed_tail) - len(unpacker.unused_data) :]
        if piece:
            yield piece
        if unpacker.eof:
            unpacker = None
    while unpacker is not None:  # all is read, but perhaps not all written
        piece = await _in_thread(len(body) > _UNPACK_HERE, unpacker.decompress, b"", _STEP)
        if piece:
            yield piece
        if unpacker.eof:
            return
        if not piece:
            raise zlib.error("it is cut off")


def _has_zlib_header(body: bytes) -> bool:
    """Deflate is zlib's format by the standard, and without its header from some clients."""
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


async def packed(content: bytes, accepted: str) -> tuple[bytes, dict[str, str]]:
    """``content`` in an encoding of ``accepted`` (an Accept-Encoding), if that is worth it, and the headers for it."""
    encoding = _choose(accepted) if len(content) >= _SMALLEST else None
    if encoding is None:
        return content, {"vary": "accept-encoding"}
    packer: Any = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if encoding == "gzip" else _ZLIB)
    result = await _in_thread(len(content) > _PACK_HERE, packer.compress, content) + packer.flush()
    return result, {"vary": "accept-encoding", "content-encoding": encoding}


def _choose(accepted: str) -> str | None:
    """gzip or deflate, whichever the client prefers; None for neither, and if it prefers none."""
    weights = {}
    for part in accepted.lower().split(","):
        name, _, parameters = part.partition(";")
        weight = parameters.replace(" ", "").removeprefix("q=")
        try:
            weights[name.strip()] = float(weight) if weight else 1.0
        except ValueError:
            continue
    found = {name: weights.get(name, weights.get("*", 0.0)) for name in ("gzip", "deflate")}
    best = max(found, key=lambda name: found[name])
    return best if found[best] > 0 and found[best] >= weights.get("identity", 0.0) else None


async def _in_thread(is_long: bool, call: Any, *arguments: Any) -> bytes:
    result: bytes = await asyncio.to_thread(call, *arguments) if is_long else call(*arguments)
    return result
