"""Weights: safetensors, PyTorch's files and the state of a training run."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.model.architecture import AlexNet, get_architecture
from alexnet_deploy.model.checkpoint import Checkpoint, load_weights, save_checkpoint
from tests.fuzz.kind import Case, UncheckedError, WrongError
from tests.fuzz.mutate import ODD_INTS, cut, damage, damaged_json
from tests.helpers.models.tiny_runs import TINY, run_of
from tests.helpers.photos import CLASSES, save_photo
from training.loop.state import RunState, load_state, save_state
from training.loop.step import Trainer
from training.run_files import STATE_FILE

_DTYPES: dict[str, Any] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def split_header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def changed_safetensors(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A changed file, and what was changed."""
    match rng.randrange(10):
        case 0:
            return cut(data, rng), "cut"
        case 1:
            return damage(data, rng, within=2000), "header damaged"
        case 2:
            return damage(data, rng), "damaged"
        case 3:
            header, body = split_header(data)
            text = json.dumps(header).encode()
            lie = rng.choice((*ODD_INTS, len(text) - 1, len(text) + 1)) % 2**64
            return struct.pack("<Q", lie) + text + body, f"header of {lie} bytes"
        case 4 | 5:  # other values, all of them finite or not
            at = len(data) - rng.randrange(1, len(split_header(data)[1]))
            return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :], "a bit of the values"
    header, body = split_header(data)
    header, what = damaged_json(header, rng)
    if isinstance(metadata := header.get("__metadata__"), dict) and rng.random() < 0.5:
        for key, value in metadata.items():  # JSON inside JSON
            if isinstance(value, str) and rng.random() < 0.5:
                try:
                    inner, note = damaged_json(json.loads(value), rng)
                except (ValueError, IndexError):
                    continue
                metadata[key], what = json.dumps(inner), f"{what}; {note}"
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body, what


def tensors_by_numpy(data: bytes) -> dict[str, NDArray[Any]]:
    """What a safetensors file holds, by its description alone."""
    header, body = split_header(data)
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        found[name] = np.frombuffer(body[start:end], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found


def _compare(found: dict[str, torch.Tensor], data: bytes) -> None:
    expected = tensors_by_numpy(data)
    if found.keys() != expected.keys():
        raise WrongError(f"other tensors: {sorted(found.keys() ^ expected.keys())[:3]}")
    for name, value in expected.items():
        if not np.array_equal(found[name].float().numpy(), value.astype(np.float32)):
            raise WrongError(f"{name} has other values than in the file")


class SafetensorsKind:
    """A checkpoint of ours, and plain weights of another tool."""

    name = "weights/safetensors"
    share = 1.0

    def prepare(self, folder: Path) -> None:
        self.arch = get_architecture("alexnet", num_classes=3, **TINY)
        torch.manual_seed(0)
        model = AlexNet(self.arch)
        weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
        contract = ModelContract("alexnet", ("a", "b", "c"), ("a", "b", "c"))
        own = save_checkpoint(Checkpoint(self.arch, contract, weights, {"epochs": 1}), folder / "own.safetensors")
        self._sound = [own.read_bytes()]

    def make(self, rng: random.Random, folder: Path) -> Case:
        data, what = changed_safetensors(rng.choice(self._sound), rng)
        path = folder / "weights.safetensors"
        path.write_bytes(data)

        def read() -> None:
            checkpoint = load_weights(path)
            checkpoint.build()
            _compare(checkpoint.weights, data)

        return Case(what, read)


class PickleKind:
    """State dicts in PyTorch's formats: wrapped, prefixed, of other types, and damaged."""

    name = "weights/pth"
    share = 1.0

    def prepare(self, folder: Path) -> None:
        arch = get_architecture("alexnet", num_classes=3, hidden=8)
        # One number for each tensor: the file stays small, and a mix-up shows.
        self._weights = {
            key: torch.full((1,), 0.01 + 0.001 * index).expand(value.shape)
            for index, (key, value) in enumerate(AlexNet(arch).state_dict().items())
        }

    def make(self, rng: random.Random, folder: Path) -> Case:
        expect: Any = "right"
        weights: dict[str, Any] = dict(self._weights)
        prefix = "".join(rng.choice(("", "module.", "_orig_mod.", "model.")) for _ in range(rng.randrange(3)))
        key = rng.choice([*weights])
        what = f"prefix {prefix!r}"
        match rng.randrange(8):
            case 0:
                del weights[key]
                what, expect = f"{key} removed", "refused"
            case 1:
                weights[key] = rng.choice(
                    (
                        5,
                        None,
                        "x",
                        weights[key].to(torch.complex64)[:1],
                        torch.full((1,), torch.nan).expand(weights[key].shape),
                    )
                )
                what, expect = f"{key} is {type(weights[key]).__name__}", "refused"
            case 2:
                kind = rng.choice((torch.float16, torch.bfloat16, torch.float64))
                weights = {
                    name: value.to(kind) if value.numel() < 99 else value[..., :1].to(kind).expand(value.shape)
                    for name, value in weights.items()
                }
                what, expect = f"as {kind}", "any"
            case 3:
                weights["head.extra.weight"] = torch.zeros(3)
                what, expect = "a tensor more", "refused"
            case 4:
                weights[key] = weights[key].flatten()
                what, expect = f"{key} flat", "any" if self._weights[key].ndim == 1 else "refused"
        content: dict[str, Any] = {prefix + name: value for name, value in weights.items()}
        for _ in range(rng.randrange(2)):
            wrapper = rng.choice(("state_dict", "model", "model_state_dict"))
            content = {"epoch": 3, wrapper: content, "optimizer": {"state": {0: {"m": torch.zeros(3)}}}}
            what += f", in {wrapper}"
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=rng.random() < 0.7)
        data = stream.getvalue()
        match rng.randrange(8):
            case 0:
                data, expect, what = cut(data, rng), "any", "cut"
            case 1:
                data, expect, what = damage(data, rng), "any", "damaged"
            case 2 | 3 if zipfile.is_zipfile(stream):
                data, expect, what = _damaged_zip(data, rng), "any", "pickle damaged"
        path = folder / "weights.pth"
        path.write_bytes(data)

        def read() -> None:
            checkpoint = load_weights(path)
            checkpoint.build()
            if expect == "any":
                raise UncheckedError
            for name, value in self._weights.items():
                if not torch.equal(checkpoint.weights[name], value):
                    raise WrongError(f"{name} has other values")

        return Case(what, read, expect)


def _damaged_zip(data: bytes, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, damage(content, rng) if name.endswith("data.pkl") else content)
    return stream.getvalue()


class StateKind:
    """``state.safetensors`` of a training run."""

    name = "weights/state"
    share = 0.6

    def prepare(self, folder: Path) -> None:
        for label, (name, colour) in enumerate(CLASSES.items()):
            for split in ("train", "val"):
                for index in range(2):
                    save_photo(folder / split / name / f"{index}.jpg", colour, seed=10 * label + index)
        self._run = run_of(folder, folder / "run", epochs=2, batch=2)
        self._trainer = Trainer(self._run, torch.device("cpu"), 0)
        self._config = self._run.config()
        path = folder / STATE_FILE
        save_state(path, RunState(0, self._config), self._trainer)
        self._sound = path.read_bytes()

    def make(self, rng: random.Random, folder: Path) -> Case:
        data, what = changed_safetensors(self._sound, rng)
        path = folder / STATE_FILE
        path.write_bytes(data)

        def read() -> None:
            state = load_state(path, self._config, self._trainer)
            if state.step != 0 or state.config != self._config:
                raise WrongError(f"it goes on at step {state.step}")
            networks = {f"model.{name}": value for name, value in self._trainer.model.state_dict().items()}
            if self._trainer.ema is not None:
                networks |= {f"ema.{name}": value for name, value in self._trainer.ema.state_dict().items()}
            header, body = split_header(data)
            for name, value in networks.items():
                start, end = header[name]["data_offsets"]
                if value.contiguous().numpy().tobytes() != body[start:end]:
                    raise WrongError(f"{name} has other values than in the file")

        return Case(what, read)
