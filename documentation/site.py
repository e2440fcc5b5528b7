"""Build the site with MkDocs: a warning, such as a link that leads nowhere, ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from documentation.stage import ROOT, stage


def build(folder: Path) -> Path:
    """Stage ``folder/docs``, build ``folder/site`` and return it; SystemExit with MkDocs' own words if it refuses."""
    return render(stage(folder))


def render(config: Path) -> Path:
    """Build the folder ``site`` beside a staged ``config``, and return it; SystemExit as ``build``."""
    # Not --quiet: MkDocs then counts no warnings, and nothing ends the build.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    # Material advertises its successor as a warning, and a warning would end the build.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the site was not built:\n{done.stdout}{done.stderr}".rstrip())
    site = config.parent / "site"
    for page in (site / "ko").rglob("*.html"):  # the theme has one language for all pages; screen readers go by it
        page.write_text(page.read_text(encoding="utf-8").replace('<html lang="en"', '<html lang="ko"', 1), "utf-8")
    return site
