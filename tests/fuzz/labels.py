"""The classes of a model and of images, as users write them: labels, and lists of the class of each image."""

from __future__ import annotations

import json
import random
from pathlib import Path

from alexnet_deploy.adoption.labels import read_labels
from tests.fuzz.kind import Case, UncheckedError, WrongError
from tests.fuzz.mutate import cut, damage
from tests.helpers.photos import save_photo
from training.data.lists.listing import list_flat_folder

_NAMES = (
    "cat", "dog", "tabby, tabby cat", "n02 beech", "Ö l", "3 legged stool", "a: b", "'quoted'", "x=1", "=SUM(A1)",
    "l'été", "null", "true", "12", "a\tb", "#tag", "-", "[x]",
)  # fmt: skip


class LabelsKind:
    """A label file in each form: each output gets its own name, or the file is refused."""

    name = "text/labels"
    share = 2.0

    def prepare(self, folder: Path) -> None:
        pass

    def make(self, rng: random.Random, folder: Path) -> Case:
        names = rng.sample(_NAMES, rng.choice((1, 2, 3, 5)))
        form = rng.choice(("lines", "numbered", "csv", "tsv", "list", "object", "inverse", "config", "yaml", "python"))
        order = list(enumerate(names))
        suffix, expect, what = ".txt", "any", form
        plain = all(name.replace(" ", "").isalpha() for name in names)
        numbers = rng.choice(("right", "right", "right", "from 1", "twice", "gap", "shuffled"))
        if form in ("numbered", "csv", "tsv", "object", "inverse", "config", "python"):
            what += f", numbers {numbers}"
            if numbers == "shuffled":
                rng.shuffle(order)
            elif numbers == "from 1":
                order = [(k + 1, name) for k, name in order]
            elif numbers == "twice":
                order[-1] = (0, order[-1][1])
            elif numbers == "gap":
                order[-1] = (len(order) + 3, order[-1][1])
            if numbers not in ("right", "shuffled") and not (numbers == "twice" and len(names) == 1):
                # Lines that do not number the outputs are plain names.
                expect = "refused" if numbers == "from 1" or form in ("object", "inverse", "config") else "any"
                expect = "any" if form == "object" and numbers == "twice" else expect  # a key twice, in JSON
        match form:
            case "lines":
                text = "\n".join(names)
            case "numbered":
                text = "\n".join(f"{k} {name}" for k, name in order)
            case "csv" | "tsv":
                mark = "," if form == "csv" else "\t"
                suffix = f".{form}"
                quoted = [(k, '"' + name.replace('"', '""') + '"') for k, name in order]
                text = "\n".join(
                    ([f"id{mark}label"] if rng.random() < 0.5 else []) + [f"{k}{mark}{n}" for k, n in quoted]
                )
            case "list":
                suffix, text = ".json", json.dumps(names)
            case "object":
                suffix, text = ".json", json.dumps({str(k): name for k, name in order})
            case "inverse":
                suffix, text = ".json", json.dumps({name: k for k, name in order})
            case "config":
                suffix, text = ".json", json.dumps({"id2label": {str(k): name for k, name in order}, "x": 1})
            case "yaml":
                suffix = ".yaml"
                text = "names:\n" + "\n".join(f"  {k}: {json.dumps(name) if not plain else name}" for k, name in order)
            case _:
                text = "{" + ", ".join(f"{k}: {name!r}" for k, name in order) + "}"
        data = text.encode()
        noise = rng.randrange(8)
        if noise == 0:
            data = b"\xef\xbb\xbf" + data
        elif noise == 1:
            data = data.replace(b"\n", b"\r\n") + b"\r\n"
        elif noise == 2:
            data += b"\n\n"
        elif noise == 3:
            data, expect, what = damage(data, rng), "damaged", f"{what}, damaged"
        elif noise == 4:
            data, expect, what = cut(data, rng), "damaged", f"{what}, cut"
        elif noise == 5:
            data = text.encode("utf-16")
        count = len(names) + (rng.choice((-1, 1, 7)) if rng.random() < 0.1 else 0)
        if count != len(names) and expect != "damaged":
            expect = "refused" if numbers in ("right", "shuffled") else "any"
        path = folder / f"labels{suffix}"
        path.write_bytes(data)
        sound = expect == "any" and numbers in ("right", "shuffled") and count == len(names) and plain
        if form == "python" and numbers == "shuffled":  # nobody writes it; it is no JSON either
            sound = False

        def read() -> None:
            ids, labels = read_labels(path, count)
            if len(labels) != count or len(set(ids)) != count or not all(labels):
                raise WrongError(f"{count} outputs: ids {ids}, labels {labels}")
            if expect == "damaged" or numbers not in ("right", "shuffled"):
                raise UncheckedError
            if plain and list(labels) != names:
                raise WrongError(f"{labels} for {names}")

        return Case(
            f"{what}: {names} for {count} outputs",
            read,
            "right" if sound else "refused" if expect == "refused" else "any",
        )


class ClassListKind:
    """The file with the class of each image of a flat folder."""

    name = "text/class-list"
    share = 1.5

    def prepare(self, folder: Path) -> None:
        self._folder = folder / "val"
        for index in range(6):
            save_photo(self._folder / f"img_{index}.jpg", (9, 9, 9), seed=index)
        self._ids = ("n01", "n02", "n03")

    def make(self, rng: random.Random, folder: Path) -> Case:
        classes = {f"img_{index}": rng.randrange(3) for index in range(6)}
        form = rng.choice(("kaggle", "pairs", "numbers", "alone"))
        rows = list(classes.items())
        if form != "alone":
            rng.shuffle(rows)
        name = rng.choice(("val.txt", "LOC_val_solution.csv"))
        match form:
            case "kaggle":
                lines = ["ImageId,PredictionString", *(f"{file},{self._ids[k]} 1 2 3 4 " for file, k in rows)]
            case "pairs":
                lines = [f"{file}.jpg {self._ids[k]}" for file, k in rows]
            case "numbers":
                lines = [f"val/{file}.jpg {k}" for file, k in rows]
            case _:
                lines = [self._ids[k] for _, k in rows]
        what, expect = form, "right"
        match rng.randrange(8):
            case 0:
                del lines[-1]
                what, expect = f"{form}, a line fewer", "refused"
            case 1:
                lines[-1] = lines[-1].replace("n0", "n9") if "n0" in lines[-1] else lines[-1][:-1] + "7"
                what, expect = f"{form}, an unknown class", "refused"
            case 2:
                lines += ["", ""]
            case 3:
                at = rng.randrange(len(lines))
                other = {
                    "n01": "n02",
                    "n02": "n03",
                    "n03": "n01",
                    ".jpg 0": ".jpg 1",
                    ".jpg 1": ".jpg 2",
                    ".jpg 2": ".jpg 0",
                }
                changed = [lines[at].replace(old, new) for old, new in other.items() if old in lines[at]]
                lines[at:at] = changed[:1]
                what, expect = f"{form}, an image twice with two classes", "refused" if changed else "right"
        data = "\n".join(lines).encode()
        if rng.random() < 0.3:
            data, expect, what = damage(data, rng), "damaged", f"{form}, damaged"
        path = folder / name
        path.write_bytes(data)

        def read() -> None:
            found = list_flat_folder(self._folder, self._ids, path)
            if len(found.files) != 6 or not all(0 <= target < 3 for target in found.targets):
                raise WrongError(f"{found.targets}")
            if expect == "damaged":
                raise UncheckedError
            if [classes[file.stem] for file in found.files] != list(found.targets):
                raise WrongError(f"{found.targets} for {classes}")

        return Case(what, read, expect if expect in ("right", "refused") else "any")  # type: ignore[arg-type]
