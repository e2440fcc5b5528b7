"""``/classify``: the rows of ``infer`` for the same files, however they are sent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import Command
from tests.serving.running import Server


def form(files: list[tuple[str, bytes]], field: str = "file") -> tuple[bytes, dict[str, str]]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, {"content-type": f"multipart/form-data; boundary={boundary}"}


def infer_rows(command: Command, *arguments: object) -> list[dict[str, Any]]:
    ran = command("infer", *arguments, "--format", "jsonl")
    assert ran.code in (0, 3), ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


@pytest.mark.parametrize(("engine", "name"), [("exact", "exact"), ("ruined", "ruined"), ("exact@onnxruntime", "exact")])
def test_several_files_get_the_rows_of_infer(
    server: Server, workplace: Path, photos: list[Path], command: Command, engine: str, name: str
) -> None:
    broken = workplace / "broken.jpg"
    broken.write_bytes((workplace / photos[0]).read_bytes()[:300])
    files = [Path("broken.jpg"), *photos]
    body, headers = form([(str(file), (workplace / file).read_bytes()) for file in files])
    answer = server.ask("POST", f"/classify?engine={engine}&top_k=2", body, headers)
    assert answer.status == 200
    with contextlib.chdir(workplace):
        runtime = "onnxruntime" if "@" in engine else "auto"
        wanted = infer_rows(command, *files, "--engine", f"engines/{name}", "--top-k", 2, "--runtime", runtime)
    rows = answer.json()
    assert rows == wanted
    assert rows[0]["top"] == []
    assert rows[0]["error"].startswith("broken.jpg: ")


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/classify", "/classify/red.jpg"])
def test_a_raw_body_is_one_file(server: Server, workplace: Path, photos: list[Path], method: str, path: str) -> None:
    answer = server.ask(method, path, (workplace / photos[0]).read_bytes(), {"content-type": "image/jpeg"})
    (row,) = answer.json()
    assert row["file"] == ("red.jpg" if path.endswith("jpg") else "image")
    assert row["error"] is None
    assert len(row["top"]) == 3
    assert answer.headers["server-timing"].startswith("decode;dur=")


def test_curl_sends_a_photo_in_one_line(server: Server, workplace: Path, photos: list[Path]) -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("needs curl")
    command = [curl, "-sf", "-T", str(photos[0]), f"http://127.0.0.1:{server.port}/classify/"]
    ran = subprocess.run(command, cwd=workplace, capture_output=True, check=True, env=os.environ | {"no_proxy": "*"})
    assert json.loads(ran.stdout)[0]["file"] == photos[0].name


def test_a_file_that_curl_has_damaged_is_refused(server: Server, workplace: Path, photos: list[Path]) -> None:
    """``curl -d`` leaves line breaks out: what is left of a photo can still be decoded, to other pixels."""
    if (curl := shutil.which("curl")) is None:
        pytest.skip("needs curl")

    def sent_by(*how: str) -> Any:
        command = [curl, "-s", *how, f"http://127.0.0.1:{server.port}/classify?top_k=1"]
        ran = subprocess.run(
            command, cwd=workplace, capture_output=True, check=True, env=os.environ | {"no_proxy": "*"}
        )
        return json.loads(ran.stdout)

    whole = sent_by("-H", "Content-Type: image/jpeg", "--data-binary", f"@{photos[0]}")
    assert whole[0]["error"] is None
    assert sent_by("--data-binary", f"@{photos[0]}") == whole  # of the same content type
    assert "curl -d has damaged; send the file by curl -T" in sent_by("-d", f"@{photos[0]}")["error"]


@pytest.mark.parametrize("body", [b"", b"a=b&c=d", b"\xff\xd8\xff\xe0 no line breaks"])
def test_a_form_that_holds_no_file_is_refused(server: Server, body: bytes) -> None:
    kind = "Application/X-WWW-form-urlencoded; charset=utf-8"
    answer = server.ask("POST", "/classify", body, {"content-type": kind})
    assert answer.status == 415
    assert "send the file by curl -T, or with the content type application/octet-stream" in answer.error


def test_a_threshold_leaves_less_sure_classes_out(server: Server, workplace: Path, photos: list[Path]) -> None:
    answer = server.ask("POST", "/classify?threshold=1&top_k=3", (workplace / photos[0]).read_bytes())
    assert all(answer["probability"] >= 1 for answer in answer.json()[0]["top"])


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "says"),
    [
        ("/classify", b"", "image/jpeg", 400, "the body is empty"),
        ("/classify?top_k=0", b"x", "image/jpeg", 400, "top_k 0: is no whole number"),
        ("/classify?top_k=1e3", b"x", "image/jpeg", 400, "top_k 1e3"),
        ("/classify?threshold=nan", b"x", "image/jpeg", 400, "threshold nan"),
        ("/classify?threshold=2", b"x", "image/jpeg", 400, "threshold 2"),
        ("/classify?threshold=0_1", b"x", "image/jpeg", 400, "threshold 0_1"),
        ("/classify?threshold=%D9%A0", b"x", "image/jpeg", 400, "is no number within 0..1"),
        ("/classify?threshold=+0.5", b"x", "image/jpeg", 400, "is no number within 0..1"),
        ("/classify?topk=3", b"x", "image/jpeg", 400, "unknown parameter topk"),
        ("/classify?top_k=2&top_k=3", b"x", "image/jpeg", 400, "parameter top_k is given more than once"),
        ("/classify?threshold=0&top_k=1&threshold=0", b"x", "image/jpeg", 400, "parameter threshold is given more"),
        ("/classify?engine=exact&engine=ruined", b"x", "image/jpeg", 400, "parameter engine is given more than once"),
        ("/classify?engine=../exact", b"x", "image/jpeg", 404, "../exact: no such model"),
        ("/classify", b"{}", "application/json", 415, "content type application/json"),
        ("/classify", b"x", "multipart/form-data", 400, "the form is not valid"),
        ("/classify", b"x", "multipart/form-data; boundary=b", 400, "the form is not valid"),
        ("/classify", b"--b--\r\n", "multipart/form-data; boundary=b", 400, "no image"),
    ],
)
def test_a_request_that_makes_no_sense_is_one_line(
    server: Server, path: str, body: bytes, kind: str, status: int, says: str
) -> None:
    answer = server.ask("POST", path, body, {"content-type": kind})
    assert answer.status == status, answer
    assert says in answer.error


def test_a_form_of_more_fields_than_any_page_has_is_refused(server: Server) -> None:
    """Each is taken apart in Python, and a body of megabytes may have a hundred thousand."""
    field = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    for count, says in ((128, "the request has no image"), (129, "it has more than 64 fields beside its files")):
        form = field * count + b"--b--\r\n"
        answer = server.ask("POST", "/classify", form, {"content-type": "multipart/form-data; boundary=b"})
        assert answer.status == 400
        assert says in answer.error


def test_an_empty_file_of_a_form_costs_only_its_own_answer(server: Server, workplace: Path, photos: list[Path]) -> None:
    body, headers = form([("empty.jpg", b""), ("good.jpg", (workplace / photos[0]).read_bytes())])
    empty, good = server.ask("POST", "/classify", body, headers).json()
    assert empty["error"].startswith("empty.jpg: ")
    assert good["error"] is None


def test_a_form_that_is_cut_off_is_refused(server: Server, workplace: Path, photos: list[Path]) -> None:
    """Its last file would be missing from the answer, or be half a file."""
    body, headers = form([("a.jpg", (workplace / photos[0]).read_bytes()), ("b.jpg", b"no image")])
    for end in (-4, -60, len(body) // 2, 150, 1):
        answer = server.ask("POST", "/classify", body[:end], headers)
        assert answer.status == 400, end
        assert answer.error == "the form is not valid: it is cut off"


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\x1bb.jpg", "x" * 1000])
def test_a_name_is_only_a_name(server: Server, name: str) -> None:
    body, headers = form([(name, b"no image")])
    (row,) = server.ask("POST", "/classify", body, headers).json()
    assert row["error"].split(":")[0].isprintable()
    assert "is not an image" in row["error"]
    assert len(row["file"]) <= 255
