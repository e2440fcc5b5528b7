"""Damage to bytes and to JSON values."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_INTS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63,
    2**64,
    -(2**63),
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, "", "x", "\x1b[31m", "a\nb", "\u202eabc", "é" * 300, "../../etc/passwd", "nan", [], {}, [[]],
    {"": None}, 0.5, -0.0, 1e308, 5e-324, 1.0000001, float("nan"), float("inf"), 10**400, *ODD_INTS,
)  # fmt: skip


def damage(data: bytes, rng: random.Random, *, within: int | None = None) -> bytes:
    """``data`` with a few bytes changed, removed or added; ``within`` limits where it begins."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not out:
            break
        at = rng.randrange(min(within or len(out), len(out)))
        match rng.randrange(8):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
            case 2:
                del out[at : at + rng.choice((1, 2, 4, 16, 64))]
            case 3:
                out[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
            case 4:  # a length, a size or an offset that lies
                size = rng.choice((2, 4, 8))
                number = rng.choice(ODD_INTS) % (1 << 8 * size)
                out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 5:
                end = at + rng.choice((2, 8, 40, 200))
                out[at:at] = out[at:end]
            case 6:
                end = min(len(out), at + rng.choice((4, 16, 60)))
                out[at:end] = bytes(end - at)
            case _:
                other = rng.randrange(len(out))
                size = rng.choice((1, 4, 32))
                out[at : at + size] = out[other : other + size]
    return bytes(out)


def cut(data: bytes, rng: random.Random) -> bytes:
    """The beginning of ``data``."""
    return data[: rng.randrange(len(data))]


def damaged_json(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A copy of a JSON value with one to three changes, and what they were."""
    changed = copy.deepcopy(value)
    notes = [_damage_once(changed, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    return changed, "; ".join(notes)


def _damage_once(root: Any, rng: random.Random) -> str:
    places = [place for place in _places(root, ()) if place[0]]
    path, parent, key = rng.choice(places)
    where = ".".join(map(str, path))
    match rng.randrange(12):
        case 0 | 1 | 2:
            parent[key] = rng.choice(ODD_VALUES)
            return f"{where} = {str(parent[key])[:30]!r}"
        case 3:
            del parent[key]
            return f"{where} removed"
        case 4 if isinstance(parent, dict):
            name = rng.choice((f"{key}x", "", "schema", key.upper(), "\x00"))
            parent[name] = parent.pop(key)
            return f"{where} renamed to {name!r}"
        case 4 | 5 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
            return f"{where} twice"
        case 5 | 6:  # a value of another place
            parent[key] = copy.deepcopy(rng.choice(places)[1])
            return f"{where} from elsewhere"
        case _:
            parent[key] = _near(parent[key], rng)
            return f"{where} = {str(parent[key])[:30]!r}"


def _near(value: Any, rng: random.Random) -> Any:
    """A value of the same type, a little different."""
    match value:
        case bool():
            return not value
        case int():
            return value + rng.choice((-1, 1, 1000))
        case float():
            return value * rng.choice((-1, 1.001, 1e6, 1e-6))
        case str() if value:
            at = rng.randrange(len(value))
            return value[:at] + rng.choice("0aZ. /\\\u00e9") + value[at + 1 :]
        case list() if len(value) > 1:
            return rng.sample(value, len(value))
    return value


def _places(value: Any, path: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], Any, Any]]:
    """Each place of a JSON value: its path, the container it is in, and its key there. Long lists count in part."""
    found: list[tuple[tuple[Any, ...], Any, Any]] = []
    keys = (
        list(value) if isinstance(value, dict) else list(range(min(4, len(value)))) if isinstance(value, list) else []
    )
    for key in keys:
        found.append(((*path, key), value, key))
        found += _places(value[key], (*path, key))
    return found


def json_text(value: Any, rng: random.Random) -> tuple[bytes, str]:
    """``value`` as JSON; now and then the text is damaged as well, and a note says how."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(24):
        case 0:
            return b"\xef\xbb\xbf" + text, "with a byte order mark"
        case 1:
            return cut(text, rng), "cut"
        case 2:
            return damage(text, rng), "bytes damaged"
        case 3:
            return b"[" * 100_000 + text, "deep"
        case 4:
            return text[:1] + b'"schema":1,"schema":2,' + text[1:], "with a key twice"
        case 5:
            return text.decode(errors="replace").encode("utf-16"), "in UTF-16"
    return text, ""


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values mean the same. A number is no truth value, and nothing equals NaN."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    return (type(one) is type(other) and one == other) or (
        isinstance(one, int | float) and isinstance(other, int | float) and one == other
    )
