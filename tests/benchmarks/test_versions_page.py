"""docs/versions.md: its matrix comes from the code, from plans that were built and from the results of cards."""

from __future__ import annotations

import dataclasses
import json

import pytest

from alexnet_deploy.runtime.tensorrt.library import RTX
from alexnet_deploy.runtime.tensorrt.support import ROWS, RTX_TARGETS, row_of
from benchmarks.gpu import matrix, page, plans
from benchmarks.gpu.result import GpuResult, PartResult

RECORD = json.loads(matrix.PLANS.read_text(encoding="utf-8"))


def rows_of(text: str, title: str) -> dict[str, list[str]]:
    """The cells of each GPU below a heading."""
    table = text.partition(f"### {title}")[2].partition("###")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| sm")]
    return {row[0]: row[1:] for row in cells}


def test_the_page_in_docs_is_rendered_from_the_code_and_the_results() -> None:
    text = matrix.PAGE.read_text(encoding="utf-8")
    assert matrix.rendered(text, page.results()) == text


def test_every_gpu_was_tried_in_every_precision() -> None:
    assert {target: set(row) for target, row in RECORD["cells"].items()} == {
        target: set(matrix.PRECISIONS) for target in RTX_TARGETS
    }


def test_what_is_documented_was_built_as_asked() -> None:
    """A precision that a document lists, and the builder does not give, would be news: then change ``support``."""
    for target in RTX_TARGETS:
        row = row_of(RTX, RECORD[RTX], target)
        assert row is not None
        for precision in (*row.precisions, *row.accepted):
            found = RECORD["cells"][target][precision]
            assert isinstance(found, dict), f"{target}, {precision}: {found}"
            assert found[matrix.FALLBACKS] == 0


def test_each_tensorrt_has_a_row_per_gpu_and_a_cell_per_precision() -> None:
    text = matrix.tables([])
    for title, library in (("TensorRT-RTX", RTX), ("TensorRT 10", "tensorrt"), ("TensorRT 11", "tensorrt")):
        rows = rows_of(text, title)
        assert rows.keys() == {row.capability for row in ROWS if row.library == library}
        assert {len(cells) for cells in rows.values()} == {1 + len(matrix.PRECISIONS)}
    assert "**run**" not in text


def test_a_gap_and_what_is_unconfirmed_are_shown() -> None:
    text = matrix.tables([])
    for row in (row for row in ROWS if row.without is not None):
        assert rows_of(text, "TensorRT 11")[row.capability][0] == "11.4"
        assert rows_of(text, "TensorRT 10")[row.capability][0] == f"10.{row.since[1]}"
    for row in (row for row in ROWS if row.unconfirmed):
        assert f"- {row.capability}, unconfirmed: {row.unconfirmed}" in text


RUN = GpuResult(
    "Made-Up", "1.2", "sm89", "2026-01-02", "abc", {}, {}, [
        PartResult("engine", "fp16", "TensorRT", "TensorRT 11.0.1 on GPU", [{"batch 1": {"median_ms": 1.0}}]),
        PartResult("engine", "int8", "TensorRT", "TensorRT 11.0.1 on GPU", [{}], "failed"),
        PartResult("engine", "fp32", "torch eager", "torch 0", [{"batch 1": {"median_ms": 1.0}}]),
    ],
)  # fmt: skip


def test_what_a_card_ran_stands_under_its_version_only() -> None:
    text = matrix.tables([RUN])
    fp32, fp16, int8 = (rows_of(text, "TensorRT 11")["sm89"][1 + matrix.PRECISIONS.index(each)]
                        for each in ("fp32", "fp16", "int8"))  # fmt: skip
    assert fp16 == "**run** (Made-Up, driver 1.2)"
    assert (fp32, int8) == ("unknown", "unknown")
    assert text.count("**run**") == 1


def test_a_result_of_rtx_does_not_count_for_the_full_tensorrt() -> None:
    part = dataclasses.replace(RUN.parts[0], ran="TensorRT-RTX 1.7.1.116 on GPU")
    text = matrix.tables([dataclasses.replace(RUN, parts=[part])])
    assert rows_of(text, "TensorRT-RTX")["sm89"][2] == "**run** (Made-Up, driver 1.2), proved: 10 fp16"
    assert text.count("**run**") == 1


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the marks of the matrix"):
        matrix.rendered("# Versions\n", [])


@pytest.mark.slow
def test_the_record_is_what_the_builder_does() -> None:
    """For all GPUs and precisions; two minutes. Another version of the builder is news for ``plans``, no fault."""
    if RECORD[RTX] != plans.load(RTX).version:
        pytest.skip("another TensorRT-RTX than the recorded one; run python -m benchmarks.gpu.plans")
    assert plans.built() == RECORD["cells"]
