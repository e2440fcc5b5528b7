"""A safetensors file with a hostile header is one line, whatever it declares, and costs no more than its bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alexnet_deploy.errors import ArtifactError, DeployError, InputError
from alexnet_deploy.model.checkpoint import load_checkpoint, load_weights
from alexnet_deploy.model.weights.safetensors_file import MAX_HEADER_BYTES, open_safetensors, tensors_in

BODY = bytes(32)


def written(path: Path, header: object, *, length: int | None = None, body: bytes = BODY) -> Path:
    """A file with ``header``, JSON or bytes, that declares ``length`` bytes of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + body)
    return path


def tensor(dtype: object = "F32", shape: object = (8,), offsets: object = (0, 32)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


WHOLE = {"__metadata__": {"format": "pt"}, "a": tensor()}


def read(path: Path) -> dict[str, torch.Tensor]:
    with open_safetensors(path) as (_, file):
        return tensors_in(file)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    assert torch.equal(read(written(tmp_path / "x.safetensors", WHOLE))["a"], torch.zeros(8))


HOSTILE: dict[str, dict[str, Any]] = {
    "a length beyond the file": {"header": WHOLE, "length": 1000},
    "a length of 2**63": {"header": WHOLE, "length": 2**63},
    "a length above the bound": {"header": WHOLE, "length": MAX_HEADER_BYTES + 1},
    "a length of 0": {"header": WHOLE, "length": 0},
    "a length that cuts the header": {"header": WHOLE, "length": 20},
    "no JSON": {"header": b"{not json}"},
    "a list": {"header": [1]},
    "deep JSON": {"header": b'{"a":' * 10_000 + b"1" + b"}" * 10_000},
    "2**60 elements": {"header": {"a": tensor(shape=[2**60])}},
    "elements beyond 64 bits": {"header": {"a": tensor(shape=[2**40, 2**40])}},
    "a size of -1": {"header": {"a": tensor(shape=[-1])}},
    "a fraction": {"header": {"a": tensor(shape=[8.5])}},
    "offsets beyond the file": {"header": {"a": tensor(shape=[16], offsets=[0, 64])}},
    "offsets backwards": {"header": {"a": tensor(offsets=[32, 0])}},
    "overlapping tensors": {"header": {"a": tensor(), "b": tensor(shape=[4], offsets=[0, 16])}},
    "a hole": {"header": {"a": tensor(shape=[4], offsets=[16, 32])}},
    "bytes behind the tensors": {"header": WHOLE, "body": BODY + b"more"},
    "one name twice": {"header": b'{"a":' + json.dumps(tensor(shape=[4], offsets=[0, 16])).encode() + b',"a":'
                       + json.dumps(tensor(shape=[4], offsets=[16, 32])).encode() + b"}"},
    "an unknown type": {"header": {"a": tensor("F7")}},
    "metadata that is no text": {"header": WHOLE | {"__metadata__": {"n": 5}}},
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_one_line(tmp_path: Path, case: str) -> None:
    path = written(tmp_path / "x.safetensors", **HOSTILE[case])
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read(path)
    with pytest.raises(ArtifactError, match=r"x.safetensors: is not a readable safetensors file \([^\n]+$"):
        load_checkpoint(path)
    with pytest.raises(InputError, match=r"^[^\n]+x.safetensors: [^\n]+; [^\n]+$"):
        load_weights(path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I64", "U16", "U64", "BOOL", "C64"])
def test_an_unusual_type_is_refused_or_read_as_it_is(tmp_path: Path, dtype: str) -> None:
    sizes = {"F4": 64, "I64": 4, "U64": 4, "C64": 4, "U16": 16}
    path = written(tmp_path / "x.safetensors", {"features.0.weight": tensor(dtype, [sizes.get(dtype, 32)])})
    with pytest.raises(DeployError, match=r"^[^\n]+x.safetensors: [^\n]+; [^\n]+$"):
        load_weights(path)


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(ArtifactError, match=r"x.safetensors: .*it is a FIFO, not a plain file"):
        load_checkpoint(tmp_path / "x.safetensors")


VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.sampled_from([-1, 0, 1, 8, 32, 2**31, 2**60, 2**63, 2**64, 10**30]),
    st.text(max_size=4), st.lists(st.sampled_from([-1, 0, 4, 8, 32, 2**60, 2**63]), max_size=4),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)  # fmt: skip
FIELDS = st.sampled_from(["dtype", "shape", "data_offsets"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.sampled_from(["a", "b", "__metadata__"]), FIELDS, VALUES), max_size=4),
       names=st.dictionaries(st.text(max_size=5), VALUES, max_size=2))  # fmt: skip
def test_any_header_is_read_whole_or_refused(
    tmp_path: Path, changes: list[tuple[str, str, object]], names: dict[str, object]
) -> None:
    header: dict[str, Any] = {"a": tensor(shape=[4], offsets=[0, 16]), "b": tensor(shape=[4], offsets=[16, 32])}
    header["__metadata__"] = {"format": "pt"}
    for key, field, value in changes:
        header[key] = header[key] | {field: value}
    path = written(tmp_path / "x.safetensors", header | names)
    try:
        tensors = read(path)
    except ValueError as exc:
        assert "\n" not in str(exc)
    else:
        assert sum(value.nbytes for value in tensors.values()) <= len(BODY)
    with pytest.raises(DeployError, match=r"^[^\n]+$"):
        load_weights(path)
