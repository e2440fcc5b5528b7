"""The models that Triton runs in Python, each with the source of this package that it imports."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import alexnet_deploy
from alexnet_deploy.contract import ModelContract

REQUIREMENTS = "requirements.txt"
_PACKAGE = Path(alexnet_deploy.__file__).parent
_MODELS = Path(__file__).parent / "models"
_SOURCES = (
    "__init__.py",
    "calibration.py",
    "contract.py",
    "errors.py",
    "json_format.py",
    "files",
    "images",
    "probabilities.py",
)
"""What decoding and probabilities import; a test runs them with nothing else."""


def write_python_model(version: Path, role: str, contract: ModelContract) -> None:
    """Fill the version folder of the model of ``role``: ``model.py``, its contract, and the sources that it imports.

    Copied, not installed: the pixels are then those of the version that packaged the engine, whatever else the server
    has, and NumPy 1 will do, which images of Triton pin.
    """
    shutil.copyfile(_MODELS / f"{role}.py", version / "model.py")
    (version / "contract.json").write_text(contract.to_json() + "\n", encoding="utf-8")
    for name in _SOURCES:
        for source in (_PACKAGE / name).rglob("*.py") if (_PACKAGE / name).is_dir() else [_PACKAGE / name]:
            copy = version / "alexnet_deploy" / source.relative_to(_PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def requirements() -> str:
    """``requirements.txt`` for Triton's Python. Pillow decides about the pixels, so its version is the one here."""
    return (
        "# For the models that end in -decode and -probabilities: install into the Python of Triton's Python backend.\n"
        "# Any NumPy from 1.26 on. HEIC and JPEG XL also need pillow-heif and pillow-jxl-plugin.\n"
        f"pillow=={metadata.version('pillow')}\n"
        f"msgspec=={metadata.version('msgspec')}\n"
        "numpy>=1.26\n"
    )
