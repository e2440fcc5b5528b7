"""How many fields a gRPC message has, before it is taken apart: each takes many times its bytes then."""

from __future__ import annotations

from typing import Any

from alexnet_deploy.serving.refusals import BadRequestError

_FEW = 64 << 10  # bytes that cannot hold so many that it matters
_MOST = 10_000  # one field per image, and a few for everything else
_LONGEST = 1 << 10  # bytes of numbers that take eight each: the sizes of a shape, while values of pixels take four
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = 0, 1, 2, 3, 4, 5


def require_few_fields(message: Any, content: bytes) -> None:
    """BadRequestError for more fields than any useful message has; ``message`` is the descriptor of ``content``.

    A group is refused as well: no message of the protocol has one, and a parser would step over it. Bytes that are no
    message at all pass: whoever parses them refuses them.
    """
    if len(content) > _FEW:
        try:
            _count(message, content, 0, len(content), 0)
        except IndexError:
            return


def _count(message: Any, content: bytes, at: int, end: int, count: int) -> int:
    """``count``, and the fields between ``at`` and ``end``, with those of messages within."""
    fields = message.fields_by_number
    while at < end:
        count += 1
        if count > _MOST:
            raise BadRequestError(f"the request has more than {_MOST} fields; no useful one has so many")
        key, at = _varint(content, at)
        kind, field = key & 7, fields.get(key >> 3)
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _BYTES:
            size, at = _varint(content, at)
            if at + size > end:
                raise IndexError
            if field is not None and field.message_type is not None:
                count = _count(field.message_type, content, at, at + size, count)
            elif field is not None and field.cpp_type in _wide_types(field) and size > _LONGEST:
                raise BadRequestError(f"{field.name} has more numbers than any useful request")
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind in (_GROUP, _GROUP_END):
            raise BadRequestError(f"the request has a group (field {key >> 3}); no message of the protocol has one")
        else:
            raise IndexError
    return count


def _wide_types(field: Any) -> tuple[int, ...]:
    return field.CPPTYPE_INT64, field.CPPTYPE_UINT64, field.CPPTYPE_DOUBLE


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := content[at]) > 127:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise IndexError
    return value | byte << shift, at + 1
