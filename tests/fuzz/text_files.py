"""Text that users give or that a killed run leaves: lists of images, journals, settings that exporters write."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from alexnet_deploy.adoption.adopt import adopt
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.images.sources import Source, find_sources, load_source
from alexnet_deploy.inference.journal import open_journal
from alexnet_deploy.inference.prediction import Answer, Prediction
from tests.fuzz.kind import Case, UncheckedError, WrongError
from tests.fuzz.mutate import cut, damage, damaged_json, json_text
from tests.helpers.models.foreign_models import CLASSES, SIDE, foreign_classifier
from tests.helpers.photos import save_photo

_ODD_LINES = (
    "nothing.jpg", "/dev/zero", "http://x/y.jpg", "https://[/", "s3://", "s4://x/y", "\x1b[31m", "~", "$HOME",
    "*", "ftp://x", "x" * 5000, "file:///etc/passwd", "://", "https://127.0.0.1:1/x.jpg", "a\udcff.jpg",
)  # fmt: skip


class SourcesKind:
    """A list of images: a row for each line, in its order."""

    name = "text/sources"
    share = 1.0

    def prepare(self, folder: Path) -> None:
        self._photos = [folder / name for name in ("a.jpg", "b c.jpg", "é.jpg", "-.jpg", "#d.jpg", "e%20f.jpg")]
        for index, path in enumerate(self._photos):
            save_photo(path, (9, 9, 9), seed=index)

    def make(self, rng: random.Random, folder: Path) -> Case:
        lines = [str(rng.choice(self._photos)) for _ in range(rng.randrange(1, 5))]
        good = len(lines)
        if rng.random() < 0.6:
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(_ODD_LINES))
        separator = rng.choice((b"\n", b"\r\n", b"\0"))
        data = separator.join(line.encode("utf-8", "surrogateescape") for line in lines) + rng.choice((b"", separator))
        what, damaged = f"{separator!r}: {[line[-30:] for line in lines]}", False
        if rng.random() < 0.3:
            data, what, damaged = damage(data, rng), "damaged", True
        path = folder / "list.txt"
        path.write_bytes(data)

        def read() -> None:
            found: list[str] = []
            out = np.zeros((8, 8, 3), np.uint8)
            for source in find_sources([], from_file=path):
                if len(found) > 200:
                    raise UncheckedError  # damage made it a folder of this machine
                name = str(source)
                try:
                    # Nothing is fetched here.
                    if isinstance(source, Source) and not isinstance(source.read, Path):
                        source = Source(name, b"".__class__) if "://" in name else source
                    load_source(source, Preprocessing(8, 8, "stretch", None), out)
                    found.append(name)
                except InputError:
                    pass
            if damaged:
                raise UncheckedError
            expected = [line for line in lines if line in set(map(str, self._photos))]
            if [name for name in found if name in set(expected)] != expected or len(expected) != good:
                raise WrongError(f"{found} for {expected}")

        return Case(what, read)


class JournalKind:
    """The journal of a killed run: its rows come back as they were, or it is refused."""

    name = "text/journal"
    share = 1.0

    def prepare(self, folder: Path) -> None:
        self._settings = {"engine": "abc", "top_k": "5"}
        self._rows = [Prediction(f"{i}\n.jpg", (Answer(i, "church", 0.5),), None if i % 3 else "odd") for i in range(8)]
        path = folder / "out.jsonl.journal"
        with open_journal(path, self._settings) as journal:
            for row in self._rows:
                journal.append(row)
            self._rows[2] = Prediction("2\n.jpg", (Answer(5, "dog", 0.25),))
            journal.append(self._rows[2], 2)
            journal.flush()
        self._sound = path.read_bytes()

    def make(self, rng: random.Random, folder: Path) -> Case:
        path = folder / "out.jsonl.journal"
        lines = self._sound.splitlines(keepends=True)
        match rng.randrange(8):
            case 0:
                data, what = cut(self._sound, rng), "cut"
            case 1 | 2:
                data, what = damage(self._sound, rng), "damaged"
            case 3:
                data, what = damage(self._sound, rng, within=120), "header damaged"
            case 4:
                at = rng.randrange(len(lines))
                data, what = b"".join(lines[:at] + lines[at + 1 :]), f"line {at} removed"
            case 5:
                rng.shuffle(lines)
                data, what = b"".join(lines), "lines in another order"
            case 6:
                data, what = (
                    self._sound + rng.choice((rng.randbytes(30), b"\0" * 5000, lines[-1], b"x" * 100_000)),
                    "more at the end",
                )
            case _:
                data, what = rng.choice((b"", b"\n", b"{}", b"\0" * 100, b"hello\n", self._sound * 2)), "another file"
        path.write_bytes(data)

        def read() -> None:
            with open_journal(path, self._settings, resume=True) as journal:
                found = list(journal.predictions())
                journal.append(Prediction("new.jpg", (), "x"))
                journal.flush()
                again = list(journal.predictions())
            whole = [*self._rows]
            first = [*whole[:2], Prediction("2\n.jpg", (Answer(2, "church", 0.5),)), *whole[3:]]
            if found not in (whole[: len(found)], first[: len(found)]):
                raise WrongError(f"rows that were never written: {found[:3]}")
            if [*found, Prediction("new.jpg", (), "x")] != again:
                raise WrongError("a row after them is not the next one")

        return Case(what, read)


class SettingsKind:
    """``config.json`` and ``preprocessor_config.json`` beside an ONNX file."""

    name = "text/settings"
    share = 1.5

    def prepare(self, folder: Path) -> None:
        foreign_classifier(folder / "model.onnx")
        self._model = (folder / "model.onnx").read_bytes()
        self._processor = {
            "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
            "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.25, 0.3], "resample": 3,
        }  # fmt: skip
        self._config = {"id2label": {str(k): f"name {k}" for k in range(CLASSES)}, "num_labels": CLASSES}
        self._timm = self._config | {
            "pretrained_cfg": {
                "input_size": [3, SIDE, SIDE], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "crop_pct": 0.9,
                "interpolation": "bicubic", "crop_mode": "center",
            }
        }  # fmt: skip

    def make(self, rng: random.Random, folder: Path) -> Case:
        (folder / "model.onnx").write_bytes(self._model)
        files: dict[str, Any] = (
            {"config.json": self._timm} if rng.random() < 0.4
            else {"config.json": self._config, "preprocessor_config.json": self._processor}
        )  # fmt: skip
        target = rng.choice([*files])
        changed, what = damaged_json(files[target], rng)
        texts = {name: json.dumps(value).encode() for name, value in files.items()}
        texts[target], how = json_text(changed, rng)
        for name, text in texts.items():
            (folder / name).write_bytes(text)

        def read() -> None:
            contract = adopt(folder / "model.onnx", folder / "ours.onnx")
            pre = contract.preprocessing
            onnx.load(folder / "ours.onnx")
            if len(contract.labels) != CLASSES:
                raise WrongError(f"labels {contract.labels}")
            try:
                says = {name: json.loads(text.removeprefix(b"\xef\xbb\xbf")) for name, text in texts.items()}
                timm = says["config.json"].get("pretrained_cfg")
                if isinstance(timm, dict) and "mean" in timm:
                    mean, factor = timm["mean"], 1.0
                else:
                    raw = says["preprocessor_config.json"]
                    factor = 255 * (float(raw.get("rescale_factor", 1 / 255)) if raw.get("do_rescale", True) else 1)
                    mean = raw["image_mean"] if raw.get("do_normalize", True) else [0.0]
                mean = mean if isinstance(mean, list) else [mean]
                expected = np.resize(np.array(mean, np.float64) / factor, 3)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
                raise UncheckedError from exc
            if not np.allclose(pre.mean, expected, rtol=1e-6):
                raise WrongError(f"mean {pre.mean} for {expected}")

        return Case(f"{target}: {what} {how}", read)
