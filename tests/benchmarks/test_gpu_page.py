"""docs/gpu.md: its tables come from the code and from the results of cards, and from nothing else."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from alexnet_deploy.runtime.tensorrt.library import RTX
from alexnet_deploy.runtime.tensorrt.support import GPUS, ROWS, RTX_EXCLUDES, RTX_TARGETS
from benchmarks.gpu import page
from benchmarks.gpu.result import Cases, GpuResult, PartResult
from benchmarks.rounds import RESULTS, ROOT


def rates(*images_per_s: float) -> list[Cases]:
    return [{"batch 8": {"median_ms": 8000 / rate, "images_per_s": rate}} if rate else {} for rate in images_per_s]


def made_up() -> GpuResult:
    """Numbers of no card."""
    parts = [
        PartResult("build", "fp16", "engine", "no TensorRT plan", [{"build": {"seconds": 1.0}}]),
        PartResult("engine", "fp16", "TensorRT", "TensorRT 0", rates(2000, 4000, 0)),
        PartResult("engine", "fp16", "torch CUDA graph", "torch 0", rates(1000, 1000, 0)),
        PartResult("engine", "fp16", "torch eager", "torch 0", rates(500, 2000, 0)),
        PartResult("engine", "int8", "TensorRT", "TensorRT 0", rates(8000, 0, 0)),
        PartResult("engine", "fp32", "torch.compile", "", [{}, {}, {}], "out of | time\nafter 9 s <b>"),
        PartResult("infer", "fp16", "TensorRT", "tensorrt", [{"infer": {"images_per_s": 300.0}}, {}, {}]),
        PartResult(
            "training", "bf16", "from files", "", [{"training": {"images_per_s": 90.0, "bare_images_per_s": 100.0}}]
        ),
    ]
    environment = {"date": "2026-01-02", "CPU": "One", "cores": "2", "torch": "0"}
    return GpuResult("Made-Up (1 GB)", "1.2", "sm00", "2026-01-02", "abc", environment, {"photos": "5"}, parts)


def test_a_result_comes_back_from_its_json(tmp_path: Path) -> None:
    result = made_up()
    assert result.file_name == "gpu-made-up-1-gb.json"
    result.save(path := tmp_path / "new" / result.file_name)
    assert GpuResult.load(path) == result


def test_ours_stands_beside_the_fastest_of_torch_in_each_round() -> None:
    rows = {row.case: row for row in page.comparisons(made_up().parts)}
    assert list(rows) == [
        "fp16, TensorRT, batch 8",
        "int8, TensorRT, batch 8",
        "infer, fp16, TensorRT",
        "training, bf16, from files",
    ]
    engine = rows["fp16, TensorRT, batch 8"]
    assert (engine.ours, engine.theirs) == ([2000, 4000], [1000, 2000])
    assert (rows["int8, TensorRT, batch 8"].ours, rows["int8, TensorRT, batch 8"].peer) == ([8000], "")
    assert rows["training, bf16, from files"].theirs == [100.0]


def test_a_round_in_which_no_peer_ran_is_in_no_ratio() -> None:
    parts = [
        PartResult("engine", "fp16", "TensorRT", "", rates(100, 300)),
        PartResult("engine", "fp16", "torch eager", "", rates(0, 100)),
    ]
    (row,) = page.comparisons(parts)
    assert (row.ours, row.theirs) == ([300], [100])


def test_the_section_of_a_card_has_its_card_its_tables_and_the_words_of_what_failed() -> None:
    text = page.section(made_up())
    lines = text.splitlines()
    assert lines[0] == "### Made-Up (1 GB), sm00, driver 1.2"
    assert lines[2] == "*2026-01-02, revision abc, photos 5, CPU One, cores 2, torch 0*"
    assert "| fp16, TensorRT | 3 | TensorRT 0 |" in lines  # the median of 4 and 2 ms
    assert "- engine, fp32, torch.compile: out of \\| time after 9 s &lt;b>" in lines


def test_words_are_shortened_on_the_page_alone() -> None:
    part = PartResult("engine", "fp16", "TensorRT", failed="x" * 5000)
    result = dataclasses.replace(made_up(), parts=[part])
    assert max(map(len, page.section(result).splitlines())) < 400
    assert len(result.parts[0].failed) == 5000


class TestADryRun:
    dry = dataclasses.replace(made_up(), dry_run=True)

    def test_says_in_its_first_line_that_it_is_no_result(self) -> None:
        assert page.section(self.dry).startswith("### Dry run: NO RESULT OF A GPU\n")
        assert "Made-Up" not in page.section(self.dry)

    def test_is_not_saved_among_the_results(self) -> None:
        with pytest.raises(SystemExit, match="a dry run is no result of a GPU"):
            self.dry.save(path := RESULTS / "gpu-dry.json")
        assert not path.exists()

    def test_is_not_rendered_if_it_lies_there(self, tmp_path: Path) -> None:
        self.dry.save(tmp_path / "gpu-dry.json")
        with pytest.raises(SystemExit, match="remove it from this folder"):
            page.results(tmp_path)


def test_the_page_in_docs_is_rendered_from_the_code_and_the_results() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.rendered(text, page.results()) == text


def test_the_page_names_every_file_with_tests_for_a_gpu() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page.PAGE.read_text(encoding="utf-8")))
    mark = "mark" + ".gpu"
    found = {path for path in (ROOT / "tests").rglob("test_*.py") if mark in path.read_text(encoding="utf-8")}
    assert named == {path.relative_to(ROOT).as_posix() for path in found}


def test_without_a_result_the_page_has_no_number_of_a_card() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.NO_RESULTS in page.rendered(text, [])
    assert "### Made-Up (1 GB), sm00, driver 1.2\n" in page.rendered(text, [made_up()])


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the marks of cards stand 0 times"):
        page.rendered("# GPU\n", [])


def test_the_table_of_cards_is_that_of_the_code() -> None:
    lines = page.cards().splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| sm")}
    assert rows.keys() == {row.capability for row in ROWS} == set(GPUS.values())
    for name, capability in GPUS.items():
        assert f" {name}" in rows[capability]

    def number(source: str) -> str:
        return "[" + next(line.partition(".")[0] for line in lines if line.endswith(f". {source}")) + "]"

    for row in ROWS:
        cell = rows[row.capability].split(" | ")[2 if row.library == RTX else 3]
        versions = f"from {row.since[0]}.{row.since[1]}"
        if row.without is not None:
            versions += " to before {}.{}, and from {}.{}".format(*row.without[0], *row.without[1])
        assert cell.startswith(f"{versions}: {', '.join(row.precisions)}")
        assert all(number(source) in cell for source in row.source.split("; "))
        assert ("**unconfirmed**" in cell) is bool(row.unconfirmed)
        assert row.unconfirmed in cell
    for capability in rows.keys() - set(RTX_TARGETS):
        cell = rows[capability].split(" | ")[2]
        assert cell.split() == ["no", *map(number, RTX_EXCLUDES.split("; "))]
