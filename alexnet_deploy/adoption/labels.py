"""Files of labels: what a user has at hand to name the classes of a model.

text        one label per line; WordNet ids before them as in synset.txt; numbers from 0 before or behind them
.csv .tsv   id, then the label, or the label alone; numbers from 0 in any column; with or without a header
JSON        a list; {"0": "cat"}; {"0": ["n02123045", "tabby"]} of Keras; {"cat": 0}; config.json with id2label
.yaml       ``names`` of an ultralytics data set, as a list or by number
Python      {0: 'cat', 1: 'dog'}, {'cat': 0, 'dog': 1}
a folder    its subfolders in the order of torchvision's ImageFolder
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alexnet_deploy.adoption.recorded import numbered_names, python_dictionary
from alexnet_deploy.contract import imagenet1k_classes
from alexnet_deploy.errors import InputError
from alexnet_deploy.json_format import decode_json, read_users_file

_WORDNET = re.compile(r"(n\d{8})(?:[\s,:;]+(.*))?")
_NUMBERED = re.compile(r"(\d{1,6})\s*(?:[:,;]|\s)\s*(\S.*)")
_NUMBER_LAST = re.compile(r"(.*\S)\s*(?:[:,;]|\s)\s*(\d{1,6})")
_HEADER = re.compile(
    r"\W*(class|label|category|synset|wnid)?[ _]*(id|ids|index|idx|number|no|nr|key|name|label)?\W*", re.I
)
_IMAGENET = 1000
_HOW = "give a text file with one label per line"

Names = tuple[tuple[str, ...] | None, tuple[str, ...]]
"""Class ids, None where the file has none, and labels."""


def read_labels(source: str | Path | None, classes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class ids and labels of a model with ``classes`` outputs, in their order; numbers if ``source`` is None.

    ``source`` is a file or folder as above, or ``imagenet1k``. A class id is the name of the class's folder in a
    labelled data set; where the file has labels alone, they are also the ids. InputError for anything that does not
    name each output.
    """
    if source is None:
        numbers = tuple(map(str, range(classes)))
        return numbers, numbers
    try:
        ids, names = imagenet1k_classes() if str(source) == "imagenet1k" else _read(Path(source))
    except (OSError, ValueError, RecursionError) as exc:
        cause = getattr(exc, "strerror", None) or exc
        raise InputError(f"{source}: cannot be read as labels ({cause}); {_HOW}") from exc
    return checked(ids, names, classes, str(source))


def checked(
    ids: tuple[str, ...] | None, names: tuple[str, ...], classes: int, source: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class ids and labels; InputError if they do not name each of ``classes`` outputs."""
    if len(names) != classes:
        held = "1 label" if len(names) == 1 else f"{len(names)} labels"
        raise InputError(f"{source}: holds {held}, the model has {classes} classes; {_next_step(names, classes)}")
    empty = next((k for k, name in enumerate(names) if not name), None)
    if empty is not None:
        raise InputError(f"{source}: its label {empty} is empty; {_HOW}, and none that is blank")
    if ids is None:
        known_ids, known = imagenet1k_classes() if classes == _IMAGENET else ((), ())
        if names == known:
            return known_ids, names
        return (names if len(set(names)) == classes else tuple(map(str, range(classes)))), names
    if len(set(ids)) != len(ids):
        twice = next(class_id for k, class_id in enumerate(ids) if class_id in ids[:k])
        raise InputError(f"{source}: the class id {twice} stands for two classes; remove one")
    if classes == _IMAGENET:
        _refuse_other_order(ids, source)
    return ids, names


def _next_step(names: Sequence[str], classes: int) -> str:
    if len(names) == 1 and classes == 2:
        return "for a model of one score give the label of the negative class first, then the positive"
    if classes == len(names) + 1:
        return "if the first output is a background class, as in TensorFlow's ImageNet models, give it a label as well"
    if classes == len(names) - 1:
        return "if the first label is a background class that the model lacks, remove it"
    return "give one per line for each"


def _refuse_other_order(ids: Sequence[str], source: str) -> None:
    """Published models have ImageNet's classes by WordNet id; its devkit numbers them otherwise, from 1."""
    known, _ = imagenet1k_classes()
    if tuple(ids) != known and set(ids) == set(known):
        k = next(k for k, class_id in enumerate(ids) if class_id != known[k])
        raise InputError(
            f"{source}: has ImageNet's classes in another order than published models, as the devkit has (class {k} is "
            f"{ids[k]} instead of {known[k]}); use imagenet1k, or names without ids if the model has this order"
        )


def _read(path: Path) -> Names:
    if path.is_dir():
        return None, _folders(path)
    text = _decode(read_users_file(path))
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        return None, _yaml_names(text)
    if suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        if (pairs := python_dictionary(text)) is not None and not _is_json(text):
            return None, tuple(_all_in_order(pairs))
        return _from_json(decode_json(text, object))
    if suffix in (".csv", ".tsv"):
        rows = csv.reader(_lines(text), delimiter="\t" if suffix == ".tsv" else ",", strict=True)
        try:
            return _from_rows([[cell.strip() for cell in row] for row in rows if any(row)])
        except csv.Error as exc:
            raise ValueError(str(exc)) from exc
    return _from_lines(_lines(text))


def _decode(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    if b"\0" in content:
        raise ValueError("it is not text; save it as UTF-8")
    return content.decode("utf-8-sig")


def _lines(text: str) -> list[str]:
    """Lines without the blank ones at the end; other separators than line breaks are part of a label."""
    lines = [line.strip(" \t") for line in re.split(r"\r\n|\n|\r", text)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _folders(path: Path) -> tuple[str, ...]:
    found = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and entry.name[0] not in ".@")
    return tuple(name for name in found if name != "__MACOSX")


def _is_json(text: str) -> bool:
    """Whether a Python dictionary is JSON as well, where a key may stand for more than a label."""
    return text.lstrip("{ \t\r\n")[:1] == '"' and "'" not in text


def _from_lines(lines: list[str]) -> Names:
    if len(lines) > 2 and _is_header(re.split(r"[,;\t ]+", lines[0])) and _numbered_lines(lines[1:]) is not None:
        lines = lines[1:]
    ids = _WORDNET.fullmatch
    if lines and all(map(ids, lines)):
        return _wordnet([match.groups() for line in lines if (match := ids(line))])
    numbered = _numbered_lines(lines)
    return (None, tuple(lines)) if numbered is None else _from_lines(numbered)


def _from_rows(rows: list[list[str]]) -> Names:
    """Labels of a table: a number, an id and a label, or less; the first row may be a header."""
    if len(rows) > 1 and (
        (_is_header(rows[0]) and not any(map(_HEADER.fullmatch, rows[1]))) or _only_first_is_text(rows)
    ):
        del rows[0]
    if len({len(row) for row in rows}) > 1 or (rows and len(rows[0]) > 3):
        raise ValueError("its rows are not a number or an id, then a label")
    width = len(rows[0]) if rows else 0
    column = next((k for k in range(width) if width > 1 and all(_is_number(row[k]) for row in rows)), None)
    if column is not None:
        rows = _all_in_order([(int(row[column]), row[:column] + row[column + 1 :]) for row in rows])
        width -= 1
    if width > 2:
        raise ValueError("its rows are not a number or an id, then a label")
    if width == 2:
        return tuple(row[0] for row in rows), tuple(row[1] for row in rows)
    return _from_lines([row[0] for row in rows])


def _wordnet(pairs: Iterable[Sequence[str | None]]) -> Names:
    """WordNet ids, and the names beside them or ImageNet's."""
    known = dict(zip(*imagenet1k_classes(), strict=True))
    ids, names = zip(*((str(i), name or known.get(str(i), str(i))) for i, name in pairs), strict=True)
    return ids, names


def _is_header(cells: Sequence[str]) -> bool:
    return all(map(_HEADER.fullmatch, cells))


def _is_number(cell: str) -> bool:
    return cell.isascii() and cell.isdecimal()


def _only_first_is_text(rows: Sequence[Sequence[str]]) -> bool:
    """Whether a column holds numbers but for its first cell: then the first row is a header in words of its own."""
    same = len({len(row) for row in rows}) == 1 < len(rows[0])
    columns = zip(*rows, strict=True) if same else ()
    return any(all(map(_is_number, column[1:])) and not _is_number(column[0]) for column in columns)


def _numbered_lines(lines: Sequence[str]) -> list[str] | None:
    """The labels of lines that are numbered from 0, before or behind them, in order; None for lines that are not."""
    for form, number, name in ((_NUMBERED, 1, 2), (_NUMBER_LAST, 2, 1)):
        matches = [match for line in lines if (match := form.fullmatch(line))]
        labels = {match[name] for match in matches}
        # "class 1", "class 2": the number is all that tells these labels apart, whatever their order.
        if len(matches) < len(lines) or (form is _NUMBER_LAST and len(labels) < 2 <= len(lines)) or not lines:
            continue
        by_number = {int(match[number]): match[name] for match in matches}
        if (ordered := _in_order(by_number, len(lines))) is not None:
            return ordered
    return None


def _all_in_order(pairs: Sequence[tuple[int, Any]]) -> list[Any]:
    """The values by their numbers; ValueError unless these are 0, 1, ..., each once."""
    ordered = _in_order(dict(pairs), len(pairs))
    if ordered is None:
        raise ValueError("its numbers are not 0, 1, 2 and so on, each once")
    return ordered


def _in_order(by_number: dict[int, Any], count: int) -> list[Any] | None:
    """The values by their numbers 0, 1, ...; None if the numbers are others; ValueError if they start at 1."""
    if sorted(by_number) == list(range(1, count + 1)):
        raise ValueError(
            "it numbers its classes from 1, the outputs of a model count from 0, and the numbers of ImageNet's devkit "
            "even have another order; number them from 0 in the order of the outputs, or leave the numbers out"
        )
    return [by_number[k] for k in range(count)] if sorted(by_number) == list(range(count)) else None


def _from_json(raw: object) -> Names:
    if isinstance(raw, dict):
        for key in ("id2label", "names", "label2id", "class_to_idx", "labels", "classes", "label_names"):
            if isinstance(inner := raw.get(key), dict | list):
                return _from_json(inner)
        raw = _values(raw)
    if not isinstance(raw, list):
        raise ValueError("its JSON is neither a list nor an object of labels")
    if raw and all(isinstance(v, list) and len(v) == 2 and all(isinstance(t, str) for t in v) for v in raw):
        return tuple(v[0] for v in raw), tuple(v[1] for v in raw)
    if not all(isinstance(value, str) for value in raw):
        raise ValueError("it holds values that are not text; put each label in quotes")
    if raw and all(re.fullmatch(r"n\d{8}", value) for value in raw):
        return _wordnet([(value, None) for value in raw])
    return None, tuple(raw)


def _values(raw: dict[str, Any]) -> list[Any]:
    """The labels of ``{"0": label}`` or ``{label: 0}`` in order."""
    if all(type(value) is int for value in raw.values()):
        by_number: dict[int, Any] = {number: label for label, number in raw.items()}
    elif all(key.isascii() and key.isdecimal() for key in raw):
        by_number = {int(key): label for key, label in raw.items()}
    else:
        raise ValueError('its JSON object does not number the labels: expected {"0": label}')
    if len(by_number) != len(raw):
        raise ValueError("its numbers are not 0, 1, 2 and so on, each once")
    return _all_in_order(list(by_number.items()))


def _yaml_names(text: str) -> tuple[str, ...]:
    """``names`` of an ultralytics data.yaml, or a document that is these names alone."""
    lines = [line.rstrip() for line in re.split(r"\r\n|\n|\r", text) if line.strip() and line.lstrip()[0] != "#"]
    at = next((i for i, line in enumerate(lines) if line.startswith("names:")), None)
    inline = "" if at is None else lines[at].partition(":")[2].strip()
    if at is not None and inline[:1] in ("[", "{"):
        inline += "".join(lines[at + 1 :]) if inline[-1] not in "]}" else ""
        found = numbered_names(inline[: inline.rfind("}") + 1])
        if found is not None:
            return found
        parts = inline[1 : inline.rfind("]")].split(",") if inline[0] == "[" else []
        names = [_unquoted(part.strip()) for part in parts if part.strip()]
    else:
        block = lines if at is None else lines[at + 1 :]
        names = []
        for line in block:
            item = re.fullmatch(r"\s*(?:-|(\d{1,6})\s*:)\s+(.+)", line)
            if item is None:
                break
            if item[1] is not None and int(item[1]) != len(names):
                raise ValueError("its numbers are not 0, 1, 2 and so on, in order")
            names.append(_unquoted(item[2]))
    if not names:
        raise ValueError("it has no entry 'names'")
    return tuple(names)


def _unquoted(text: str) -> str:
    for quote in ("'", '"'):
        if len(text) > 1 and text[0] == text[-1] == quote:
            inner = text[1:-1]
            if quote in inner.replace(quote * 2, "") or "\\" in inner:
                raise ValueError(f"its label {text[:40]} has escapes; give a text file")
            return inner.replace(quote * 2, quote)
    if text[:1] in ("'", '"', "[", "{", "&", "*", "!", "|", ">"):
        raise ValueError(f"its label {text[:40]} is not plain; give a text file")
    return re.sub(r"\s+#.*$", "", text)
