"""docs/gpu.md: its tables of cards and of results are rendered between marks, the rest is written by hand."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from alexnet_deploy.runtime.tensorrt.library import FULL, RTX
from alexnet_deploy.runtime.tensorrt.support import GPUS, ROWS, RTX_EXCLUDES
from benchmarks.gpu import matrix
from benchmarks.gpu.result import Cases, GpuResult, PartResult
from benchmarks.gpu.ways import OURS, TORCH
from benchmarks.render import table
from benchmarks.rounds import RESULTS, ROOT, Report, Row

PAGE = ROOT / "docs" / "gpu.md"
NO_RESULTS = "No card has run this yet, so there is no number here."
_LONGEST_WORDS = 300


def write() -> None:
    """Render both pages from the code's table of cards and from all results; not touched where one is a dry run."""
    measured = results()
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), measured), encoding="utf-8")
    versions = matrix.PAGE
    versions.write_text(matrix.rendered(versions.read_text(encoding="utf-8"), measured), encoding="utf-8")


def results(folder: Path = RESULTS) -> list[GpuResult]:
    """All results of cards, by file name; ends the program at a dry run among them."""
    found = []
    for path in sorted(folder.glob("gpu-*.json")):
        result = GpuResult.load(path)
        if result.dry_run:
            sys.exit(f"{path}: a dry run is no result of a GPU; remove it from this folder")
        found.append(result)
    return found


def rendered(text: str, measured: Sequence[GpuResult]) -> str:
    """``text`` with both rendered parts renewed; ValueError where a mark is missing."""
    parts = {"cards": cards(), "results": "\n".join(map(section, measured)) if measured else NO_RESULTS}
    for name, content in parts.items():
        between = (
            rf"(?<=<!-- rendered: {name}, by python -m benchmarks.gpu --render -->\n).*?(?=\n<!-- end of {name} -->)"
        )
        pieces = re.split(between, text, flags=re.DOTALL)
        if len(pieces) != 2:
            raise ValueError(f"the marks of {name} stand {len(pieces) - 1} times on the page, not once")
        text = content.join(pieces)
    return text


def cards() -> str:
    """What is documented for each compute capability, from ``runtime.tensorrt.support``."""
    capabilities = sorted({row.capability for row in ROWS}, key=lambda name: int(name.removeprefix("sm")))
    lines = [
        "| capability | cards, by the names that `--target` takes | TensorRT-RTX (`[rtx]`) | full TensorRT (`[gpu]`) |"
    ]
    lines.append("|---|---|---|---|")
    numbers: dict[str, int] = {}
    for capability in capabilities:
        names = ", ".join(name for name, of in GPUS.items() if of == capability)
        lines.append(
            f"| {capability} | {names} | {_listed(RTX, capability, numbers)} | {_listed(FULL, capability, numbers)} |"
        )
    sources = "".join(f"\n{number}. {source}" for source, number in numbers.items())
    return "\n".join(lines) + f"\n\nSources:\n{sources}"


def _listed(library: str, capability: str, numbers: dict[str, int]) -> str:
    row = next((each for each in ROWS if (each.library, each.capability) == (library, capability)), None)
    if row is None:
        assert library == RTX, f"{capability}: the full TensorRT has a row for each"
        return f"no{_numbered(RTX_EXCLUDES, numbers)}"
    text = f"from {row.since[0]}.{row.since[1]}"
    if row.without is not None:
        (major, minor), (again_major, again_minor) = row.without
        text += f" to before {major}.{minor}, and from {again_major}.{again_minor}"
    text += f": {', '.join(row.precisions)}"
    if row.accepted:
        text += f"; builds {', '.join(row.accepted)}, which no document lists"
    text += _numbered(row.source, numbers)
    return f"{text}; **unconfirmed**: {row.unconfirmed}" if row.unconfirmed else text


def _numbered(sources: str, numbers: dict[str, int]) -> str:
    return "".join(f" [{numbers.setdefault(source, len(numbers) + 1)}]" for source in sources.split("; "))


def section(result: GpuResult) -> str:
    """One card: the latency of every engine, ours beside the fastest of torch, and what could not run."""
    versions = ", ".join(f"{name} {version}" for name, version in result.environment.items() if name != "date")
    head = f"### {result.card}, {result.capability}, driver {result.driver}"
    if result.dry_run:
        head = "### Dry run: NO RESULT OF A GPU\n\nIt shows that every part passes, on a CPU; its numbers mean nothing."
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    parts = [f"{head}\n\n*{result.date}, revision {result.revision}, {settings}, {versions}*"]
    engines = [part for part in result.parts if part.kind == "engine" and any(part.rounds)]
    if engines:
        parts.append(latencies(engines))
    rows = comparisons(result.parts)
    if rows:
        parts.append(table(Report("", rows, environment={})))
    failed = [f"- {part.kind}, {part.title}: {_one_cell(part.failed)}" for part in result.parts if part.failed]
    if failed:
        parts.append("What did not run or did not end, in its own words:\n\n" + "\n".join(failed))
    return "\n\n".join(parts) + "\n"


def latencies(engines: Sequence[PartResult]) -> str:
    """Median milliseconds per call; the median of the rounds."""
    cases = list(dict.fromkeys(case for part in engines for cases in part.rounds for case in cases))
    lines = ["Milliseconds per call, from pixels in memory to logits in memory:", ""]
    lines.append(f"| engine | {' | '.join(cases)} | what ran |")
    lines.append(f"|---|{'---:|' * len(cases)}---|")
    for part in engines:
        found = [[ms for ms in part.readings(case, "median_ms") if ms is not None] for case in cases]
        cells = [f"{median(ms):.3g}" if ms else "" for ms in found]
        lines.append(f"| {part.title} | {' | '.join(cells)} | {_one_cell(part.ran)} |")
    return "\n".join(lines)


def comparisons(parts: Sequence[PartResult]) -> list[Row]:
    """Ours beside the fastest way of torch in each round, ``infer``, and training beside the bare loop."""
    rows = []
    for part in parts:
        if part.kind == "engine" and part.way in OURS:
            peers = [each for each in parts if each.kind == "engine" and each.precision == part.precision]
            peers = [each for each in peers if each.way in TORCH]
            for case in dict.fromkeys(case for cases in part.rounds for case in cases):
                rows += _row(f"{part.title}, {case}", part.rounds, [peer.rounds for peer in peers], case)
        elif part.kind == "infer":
            rows += _row(f"infer, {part.title}", part.rounds, [], "infer")
        elif part.kind == "training":
            found = [cases["training"] for cases in part.rounds if "training" in cases]
            if found:
                ours, bare = ([each[name] for each in found] for name in ("images_per_s", "bare_images_per_s"))
                rows.append(Row(f"training, {part.title}", "images/s", ours, "bare loop", bare))
    return rows


def _row(title: str, ours: Sequence[Cases], peers: Sequence[Sequence[Cases]], case: str) -> list[Row]:
    """One row of the rounds in which ours ran; with a peer of those in which one ran as well. None without a round."""
    alone, pairs = [], []
    for number, cases in enumerate(ours):
        if case not in cases:
            continue
        rate = cases[case]["images_per_s"]
        alone.append(rate)
        theirs = [peer[number][case]["images_per_s"] for peer in peers if case in _at(peer, number)]
        if theirs:
            pairs.append((rate, max(theirs)))
    if pairs:
        return [Row(title, "images/s", [a for a, _ in pairs], "the fastest of torch", [b for _, b in pairs])]
    return [Row(title, "images/s", alone)] if alone else []


def _at(rounds: Sequence[Cases], number: int) -> Mapping[str, object]:
    return rounds[number] if number < len(rounds) else {}


def _one_cell(words: str) -> str:
    """Words of another program for a cell or a line of Markdown, shortened; the JSON has them in full."""
    text = " ".join(words.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= _LONGEST_WORDS else text[:_LONGEST_WORDS] + " …"
