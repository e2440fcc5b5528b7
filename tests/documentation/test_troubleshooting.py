"""docs/troubleshooting.md: what this tool prints where others are silent, as far as no GPU is needed for it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.helpers import transcripts
from tests.helpers.models.bundles import build_bundle
from tests.helpers.models.foreign_models import foreign_classifier
from tests.helpers.models.onnx_models import tiny_model
from tests.helpers.repository import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")


def test_the_errors_are_those_that_the_page_shows(tmp_path: Path) -> None:
    """They do not depend on the network, so a small one has the name of the page's."""
    transcripts.with_samples(ROOT, tmp_path)
    build_bundle(tiny_model(tmp_path / "tiny.onnx"), tmp_path / "engines/alexnet-int8", "fp16")
    foreign_classifier(tmp_path / "theirs.onnx", batch=1)
    assert len(transcripts.check(PAGE, tmp_path, flags={}, instead={})) >= 3


def test_every_complaint_has_what_others_say_what_we_say_and_what_to_do() -> None:
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        marks = re.findall(r"^\*\*(\w+):\*\*", section, re.M)
        assert marks == ["Elsewhere", "Here", "Do"], section.partition("\n")[0]
