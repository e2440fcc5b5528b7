"""Preprocessing and labels that exporters leave in an ONNX file or beside it.

    ultralytics    metadata of the file: task, imgsz, names
    RapidOCR       metadata of the file: character (the labels)
    Hugging Face   preprocessor_config.json and config.json in the folder of the file, or above a folder ``onnx``
    timm           config.json with a pretrained_cfg, as on the Hugging Face hub

Nothing of it is trusted: sizes are bounded, every value is checked, and a processor that is not known here is named
instead of guessed.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from alexnet_deploy.adoption.import_options import NO_IMPORT_OPTIONS, ImportOptions, Resize
from alexnet_deploy.adoption.presets import PRESETS
from alexnet_deploy.errors import InputError, UsageError, one_line
from alexnet_deploy.json_format import decode_json, read_users_file

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which Hugging Face writes."""
_SQUARE = ("ViT", "DeiT", "Beit", "Bit", "EfficientNet", "MobileNetV1", "MobileNetV2", "ConvNext", "LeViT", "CLIP",
           "Siglip", "PoolFormer", "MobileViT", "Perceiver", "Dinov2")  # fmt: skip
"""Image processors of classifiers whose steps are resize, centre crop, rescale and normalise, in this order."""
_BY_SHORTER_SIDE = frozenset(
    ("Bit", "MobileNetV1", "MobileNetV2", "ConvNext", "LeViT", "CLIP", "PoolFormer", "MobileViT")
)
"""Those that take a size of one number for the shorter side; the others stretch to a square."""
_METADATA = "the file's metadata"
_NUMBER = r"(?P<number>\d{1,6})"
_QUOTED = r"""(?P<name>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
_PAIR = re.compile(rf"\s*{_NUMBER}\s*:\s*{_QUOTED}\s*(,|$)")
_REVERSED_PAIR = re.compile(rf"\s*{_QUOTED}\s*:\s*{_NUMBER}\s*(,|$)")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was found, and where."""

    options: ImportOptions = NO_IMPORT_OPTIONS
    names: tuple[str, ...] | None = None
    """Labels in the order of the classes."""
    source: str = ""
    """Where the preprocessing comes from, for people; empty: nowhere."""
    problem: str = ""
    """Why a file that is there could not be used."""
    names_source: str = ""
    """Where ``names`` come from."""


def read_recorded(model: onnx.ModelProto, path: Path) -> Recorded:
    """What the file ``path``, or a file beside it, records; InputError for a model that is no classifier."""
    props = {entry.key: entry.value for entry in model.metadata_props}
    if "task" in props and ("imgsz" in props or "names" in props):
        return _ultralytics(props, path)
    found = read_beside(path)
    if found.names is None and "character" in props:
        return dataclasses.replace(found, names=tuple(props["character"].splitlines()), names_source=_METADATA)
    return found


def _ultralytics(props: dict[str, str], path: Path) -> Recorded:
    if props["task"] != "classify":
        raise InputError(
            f"{path}: is an ultralytics model for the task {one_line(props['task'], 40)!r}, not a classifier; export "
            "one of task classify"
        )
    size = re.fullmatch(r"\s*\[?\s*(\d{1,4})\s*(?:,\s*(\d{1,4})\s*)?\]?\s*", props.get("imgsz", ""))
    options = PRESETS["ultralytics"]
    if size is not None:
        options = dataclasses.replace(options, crop=(int(size[1]), int(size[2] or size[1])))
    if props.get("channels") == "1":
        options = dataclasses.replace(options, channels="grey")
    return Recorded(options, numbered_names(props.get("names", "")), f"{_METADATA} (ultralytics)", "", _METADATA)


def numbered_names(text: str) -> tuple[str, ...] | None:
    """The names in a Python dictionary ``{0: 'cat', 1: "dog"}`` by their numbers 0, 1, ...; None if it is another."""
    names = dict(pairs := python_dictionary(text) or [])
    if not pairs or sorted(names) != list(range(len(pairs))):
        return None
    return tuple(names[number] for number in range(len(pairs)))


def python_dictionary(text: str) -> list[tuple[int, str]] | None:
    """The pairs of a Python dictionary ``{0: 'cat'}`` or ``{'cat': 0}``, as written; None if it is anything else."""
    body = text.strip()
    if not (body.startswith("{") and body.endswith("}")):
        return None
    pairs: list[tuple[int, str]] = []
    body, at = body[1:-1].rstrip(), 0
    form = _PAIR if _PAIR.match(body) else _REVERSED_PAIR
    while at < len(body):
        if (pair := form.match(body, at)) is None:
            return None
        try:
            pairs.append((int(pair["number"]), ast.literal_eval(pair["name"])))  # of a string literal alone
        except (ValueError, SyntaxError):
            return None
        at = pair.end()
    return pairs or None


def read_beside(path: Path) -> Recorded:
    """What files of Hugging Face and timm beside the file ``path`` record."""
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    names, names_source, problem = None, "", ""
    options, source = NO_IMPORT_OPTIONS, ""
    for folder in folders:
        for file, read in (("config.json", _config), ("preprocessor_config.json", _processor)):
            if not (folder / file).is_file():
                continue
            try:
                found = read(decode_json(read_users_file(folder / file), dict[str, Any]))
            except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError, UsageError) as exc:
                problem = f"{folder / file}: {one_line(exc, 160)}"
                continue
            if names is None and found.names is not None:
                names, names_source = found.names, str(folder / file)
            if found.options.mean is not None:
                options, source = found.options, str(folder / file)
        if source:
            break
    return Recorded(options, names, source, problem, names_source)


def _config(raw: dict[str, Any]) -> Recorded:
    """config.json: the labels, and timm's pretrained_cfg."""
    names = None
    if isinstance(labels := raw.get("id2label"), dict):
        names = tuple(str(labels[str(k)]) for k in range(len(labels)) if str(k) in labels)
        if len(names) != len(labels) or names == tuple(f"LABEL_{k}" for k in range(len(names))):
            names = None  # incomplete, or the placeholders of transformers
    timm = raw.get("pretrained_cfg")
    if not isinstance(timm, dict) or "mean" not in timm:
        return Recorded(names=names)
    if names is None and isinstance(timm_names := raw.get("label_names"), list):
        names = tuple(map(str, timm_names))
    mode = timm.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode!r} cannot be stated here")
    _, height, width = timm["input_size"]
    rules = ImportOptions(
        mean=_numbers(timm["mean"]),
        std=_numbers(timm["std"]),
        resize="stretch" if mode == "squash" else "shorter-side",
        crop_pct=timm.get("crop_pct", 0.875),
        crop=(_side(height), _side(width)),
        interpolation=timm.get("interpolation", "bicubic"),
    )
    return Recorded(rules, names)


def _processor(raw: dict[str, Any]) -> Recorded:
    """preprocessor_config.json: an image processor of transformers."""
    kind = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or "")
    name = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", kind)
    if name not in _SQUARE:
        raise ValueError(f"the image processor {kind[:60]!r} is not known here")
    for step, usual in (("do_pad", False), ("do_reduce_labels", False), ("rescale_offset", False)):
        if raw.get(step, usual) and step != "do_reduce_labels":
            raise ValueError(f"{step} cannot be stated here")
    resize, resize_to, crop = _geometry(raw, name)
    factor = float(raw.get("rescale_factor", 1 / 255)) if raw.get("do_rescale", True) else 1.0
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"rescale_factor {factor} is not above 0")
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if raw.get("do_normalize", name != "MobileViT"):  # its processor has no such step
        mean, std = _numbers(raw["image_mean"]), _numbers(raw["image_std"])
    if name == "EfficientNet" and raw.get("include_top", True):
        std = tuple(s * s for s in std)  # its processor divides by the deviation a second time
    unit = 255 * factor
    return Recorded(
        ImportOptions(
            mean=tuple(m / unit for m in mean),
            std=tuple(s / unit for s in std),
            resize=resize,
            resize_to=resize_to,
            crop=crop,
            crop_offset="floor",
            interpolation=_FILTERS[raw.get("resample", 2)],  # type: ignore[arg-type]
            channels="bgr" if raw.get("do_flip_channel_order", name == "MobileViT") else "rgb",
        )
    )


def _geometry(raw: dict[str, Any], name: str) -> tuple[Resize, int | None, tuple[int, int]]:
    """The resize rule, the pixels before the crop, and height and width of the input."""
    if not raw.get("do_resize", True):
        raise ValueError("do_resize is false, so its input has the size of each image")
    size, crop = raw["size"], None
    if raw.get("do_center_crop", False) and name != "ConvNext":
        crop = _sides(raw.get("crop_size", size))
    if isinstance(size, int):
        size = {"shortest_edge": size} if name in _BY_SHORTER_SIDE else {"height": size, "width": size}
    if "shortest_edge" not in size:
        sides = _sides(size)
        if crop is None or crop == sides:
            return "stretch", None, sides
        if sides[0] != sides[1]:
            raise ValueError(f"a crop of {sides[0]} x {sides[1]} cannot be stated here")
        return "stretch", sides[0], crop
    edge = _side(size["shortest_edge"])
    if name == "ConvNext":
        if edge >= 384:
            return "stretch", None, (edge, edge)
        return "shorter-side", int(edge / float(raw.get("crop_pct") or 224 / 256)), (edge, edge)
    if name == "LeViT":
        edge = int(256 / 224 * edge)
    if name == "PoolFormer":
        edge = int(edge / float(raw.get("crop_pct") or 0.9))
    if crop is None:
        raise ValueError("it has no centre crop, so its input has the shape of each image")
    return "shorter-side", edge, crop


def _sides(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        return _side(value["height"]), _side(value["width"])
    return _side(value), _side(value)


def _side(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise ValueError(f"{value!r} is not a size in pixels")
    return value


def _numbers(value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values or not all(type(number) in (int, float) for number in values):
        raise ValueError(f"{one_line(value, 40)} is not a list of numbers")
    return tuple(map(float, values))
