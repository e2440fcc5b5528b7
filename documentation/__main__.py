"""``python -m documentation [FOLDER]``: build the site into FOLDER/site, strictly; the default FOLDER is build."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from documentation.site import build
from documentation.stage import ROOT


def main() -> None:
    """Build, and print where the site is and how long it took; exit code 1 if a page or a link is wrong."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    began = time.perf_counter()
    build(folder)
    print(f"{folder / 'site' / 'index.html'}: open it in a browser; built in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
