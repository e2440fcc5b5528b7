"""Where the images of a run came from, kept in its directory, so that ``report`` finds them again."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from alexnet_deploy.errors import ArtifactError, InputError, one_line
from alexnet_deploy.files import atomic_file
from alexnet_deploy.json_format import read_users_file

DATA_FILE = "data.json"


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The settings of ``train`` that choose its images."""

    data: Path
    seed: int
    val: Path | None = None
    val_labels: Path | None = None
    val_share: float | None = None
    exclude: Path | None = None
    allow_unreadable: bool = False

    def write(self, output: Path) -> None:
        """Keep them in the run directory ``output``, with absolute paths; atomic."""
        raw = {
            name: os.path.abspath(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }
        with atomic_file(output / DATA_FILE) as temporary:
            # A path need not be valid text: json writes its odd bytes as escapes, which read back.
            temporary.write_text(json.dumps(raw, indent=1) + "\n", encoding="ascii")


def read_data_settings(output: Path) -> DataSettings:
    """The settings that the run in ``output`` left.

    Raises InputError if it left none, ArtifactError if they cannot be read.
    """
    path = output / DATA_FILE
    try:
        raw = json.loads(read_users_file(path))
        return msgspec.convert(raw, DataSettings, dec_hook=lambda kind, value: kind(value))
    except FileNotFoundError as exc:
        raise InputError(f"{output}: has no {DATA_FILE}, so its images are unknown; give `data`") from exc
    except (OSError, ValueError, TypeError, RecursionError) as exc:
        raise ArtifactError(f"{path}: does not say which images the run had ({one_line(exc)}); give `data`") from exc
