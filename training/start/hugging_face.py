"""Read a folder of the Hugging Face hub: config.json, preprocessor_config.json and the weights beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet_deploy.adoption.import_options import ImportOptions
from alexnet_deploy.adoption.labels import checked
from alexnet_deploy.adoption.preprocessing_of import resize_to_of, three
from alexnet_deploy.adoption.recorded import read_beside
from alexnet_deploy.contract import Preprocessing
from alexnet_deploy.errors import InputError
from alexnet_deploy.json_format import decode_json, read_users_file
from alexnet_deploy.model.architecture import INPUT_SIDE

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
OURS, CLASS_IDS = "alexnet_deploy", "class_ids"
"""Key of our own names in config.json, and the one of them that is read back."""
_PICKLED = "pytorch_model.bin"
_SHARDED = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class HubFolder:
    """What a folder of the hub says about its weights; None: nothing."""

    weights: Path
    labels: tuple[str, ...] | None
    class_ids: tuple[str, ...] | None
    """As ``pack --hf`` leaves them; other tools have labels alone."""
    preprocessing: Preprocessing | None
    notes: tuple[str, ...]

    def classes(self, outputs: int) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Class ids and labels, if the folder names them; InputError if it does not name each of ``outputs``."""
        if self.labels is None:
            return None
        return checked(self.class_ids, self.labels, outputs, str(self.weights.parent / CONFIG))


def read_hub_folder(folder: Path) -> HubFolder:
    """What ``folder`` records; InputError if it has no weights in one file, or prepares pixels in an unknown way."""
    weights = next((folder / name for name in (WEIGHTS, _PICKLED) if (folder / name).is_file()), None)
    if weights is None:
        if (folder / _SHARDED).is_file():
            raise InputError(f"`start` {folder}: its weights are in several files; save them as one {WEIGHTS}")
        raise InputError(f"`start` {folder}: has {CONFIG} but neither {WEIGHTS} nor {_PICKLED}; download it whole")
    found = read_beside(weights)
    if found.problem:
        # With other pixels than in its training, trained weights are worth little.
        raise InputError(f"`start` {found.problem}; mend or remove that file")
    rules = None if found.options.mean is None else _preprocessing(found.options, folder)
    notes = [f"classes: {found.names_source}"] if found.names else []
    notes += [f"preprocessing: {found.source}"] if rules else []
    class_ids = None if found.names is None else _class_ids(folder / CONFIG, len(found.names))
    return HubFolder(weights, found.names, class_ids, rules, tuple(notes))


def _class_ids(config: Path, classes: int) -> tuple[str, ...] | None:
    """Our own class ids in config.json; InputError if they do not name each class."""
    try:
        ours = decode_json(read_users_file(config), dict[str, Any]).get(OURS)
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(f"`start` {config}: cannot be read ({exc}); download it again") from exc
    if not isinstance(ours, dict) or CLASS_IDS not in ours:
        return None
    ids = ours[CLASS_IDS]
    if not isinstance(ids, list) or len(ids) != classes or not all(isinstance(each, str) and each for each in ids):
        raise InputError(
            f"`start` {config}: its {CLASS_IDS} do not name each of {classes} classes; mend or remove them"
        )
    return tuple(ids)


def _preprocessing(options: ImportOptions, folder: Path) -> Preprocessing:
    height, width = options.crop or (INPUT_SIDE, INPUT_SIDE)
    if (height, width) != (INPUT_SIDE, INPUT_SIDE) or (options.channels or "rgb") != "rgb":
        raise InputError(
            f"`start` {folder / PROCESSOR}: prepares {height} x {width} {options.channels or 'rgb'} pixels, training "
            f"needs {INPUT_SIDE} x {INPUT_SIDE} rgb; change that file"
        )
    resize = options.resize or "shorter-side"
    try:
        return Preprocessing(
            resize=resize,
            resize_to=resize_to_of(options, resize, height, width),
            interpolation=options.interpolation or "bilinear",
            mean=three(options.mean or (0.0,)),
            std=three(options.std or (1.0,)),
            crop_offset=options.crop_offset or "round",
        )
    except ValueError as exc:
        raise InputError(f"`start` {folder / PROCESSOR}: {exc}; change that file") from exc
