"""Files of labels in every form that users have at hand are read as they are meant, or refused with the cause."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.adoption.labels import read_labels
from alexnet_deploy.contract import imagenet1k_classes
from alexnet_deploy.errors import InputError
from alexnet_deploy.json_format import MAX_USERS_BYTES

NAMES = ("cat", "dog", "ant", "bee", "fly")
IDS = ("n02121808", "n02084071", "n02219486", "n02206856", "n02190166")
WORDY = tuple(f"{name}, {name} of the house" for name in NAMES)
WORDNET, IMAGENET = imagenet1k_classes()


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*columns: tuple[str, ...], by: str) -> str:
    return "".join(f"{by.join(row)}\n" for row in zip(*columns, strict=True))


NUMBERS = tuple("01234")
KERAS = {str(k): [class_id, name] for k, (class_id, name) in enumerate(zip(IDS, NAMES, strict=True))}


class TestForms:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.txt", "cat\ndog\nant\nbee\nfly"),
            ("a.txt", "cat\r\ndog\r\nant\r\nbee\r\nfly\r\n"),
            ("a.txt", "cat\ndog\nant\nbee\nfly\n\n \n"),
            ("a.txt", "\ufeffcat\ndog\nant\nbee\nfly\n"),
            ("a.txt", "\n".join(NAMES).encode("utf-16")),
            ("a.txt", lines(NUMBERS, NAMES, by=" ")),
            ("a.txt", lines(NUMBERS, NAMES, by=": ")),
            ("a.txt", lines(NUMBERS[::-1], NAMES[::-1], by=",")),
            ("a.csv", "index,label\n" + lines(NUMBERS, NAMES, by=",")),
            ("a.csv", "label\n" + "\n".join(NAMES)),
            ("a.tsv", lines(NUMBERS, NAMES, by="\t")),
            ("a.json", json.dumps(NAMES)),
            ("a.json", json.dumps(NAMES, indent=2)),
            ("labels", json.dumps(dict(zip(NUMBERS, NAMES, strict=True)), indent=2)),
            ("a.json", json.dumps(dict(zip(NUMBERS[::-1], NAMES[::-1], strict=True)))),
            ("a.json", json.dumps({name: k for k, name in enumerate(NAMES)})),
            ("config.json", json.dumps({"id2label": dict(zip(NUMBERS, NAMES, strict=True)), "label2id": {"x": 0}})),
            ("config.json", json.dumps({"label2id": {name: k for k, name in enumerate(NAMES)}})),
            ("data.yaml", "nc: 5\nnames:\n" + "".join(f"  {k}: {n}\n" for k, n in enumerate(NAMES)) + "nc: 5\n"),
            ("data.yaml", "names:\n- cat\n- 'dog'\n- ant # small\n- bee\n- \"fly\"\n"),
            ("data.yml", "names: ['cat', dog, \"ant\", bee, fly]\n"),
            ("names.txt", "{0: 'cat',\n 1: 'dog',\n 2: \"ant\",\n 3: 'bee',\n 4: 'fly'}"),
            ("names.txt", "{4: 'fly', 1: 'dog', 0: 'cat', 3: 'bee', 2: 'ant'}"),
            ("names.txt", "{'fly': 4, 'cat': 0, 'dog': 1, \"ant\": 2, 'bee': 3}"),
        ],
    )  # fmt: skip
    def test_labels_alone_are_the_ids_as_well(self, name: str, content: str | bytes, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, name, content), 5) == (NAMES, NAMES)

    @pytest.mark.parametrize(
        ("name", "content", "labels"),
        [
            ("synset.txt", lines(IDS, WORDY, by=" "), WORDY),
            ("synset.txt", lines(IDS, NAMES, by="\t"), NAMES),
            ("a.csv", lines(IDS, NAMES, by=","), NAMES),
            ("a.csv", "id,name\n" + "".join(f'{i},"{w}"\n' for i, w in zip(IDS, WORDY, strict=True)), WORDY),
            ("a.csv", "".join(f"{k},{i},{n}\n" for k, i, n in zip(NUMBERS, IDS, NAMES, strict=True)), NAMES),
            ("imagenet_class_index.json", json.dumps(KERAS), NAMES),
            ("imagenet_class_index.json", json.dumps(KERAS, indent=4), NAMES),
            ("a.json", json.dumps([list(pair) for pair in zip(IDS, NAMES, strict=True)]), NAMES),
        ],
    )
    def test_ids_beside_labels_name_the_folders(
        self, name: str, content: str, labels: tuple[str, ...], tmp_path: Path
    ) -> None:
        assert read_labels(write(tmp_path, name, content), 5) == (IDS, labels)

    def test_wordnet_ids_alone_get_the_names_of_imagenet(self, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "ids.txt", "\n".join(WORDNET)), 1000) == (WORDNET, IMAGENET)

    def test_the_names_of_imagenet_alone_get_its_ids(self, tmp_path: Path) -> None:
        assert read_labels(write(tmp_path, "names.txt", "\n".join(IMAGENET)), 1000) == (WORDNET, IMAGENET)
        assert read_labels("imagenet1k", 1000) == (WORDNET, IMAGENET)

    def test_a_folder_stands_for_its_subfolders_in_order(self, tmp_path: Path) -> None:
        for name in (*NAMES, ".cache", "@eaDir", "__MACOSX"):
            (tmp_path / name).mkdir()
        (tmp_path / "notes.txt").write_text("x")
        assert read_labels(tmp_path, 5) == (tuple(sorted(NAMES)),) * 2

    @pytest.mark.parametrize("order", ["01234", "31204"])
    @pytest.mark.parametrize("number", [0, 1])
    @pytest.mark.parametrize("header", [(), ("id", "label"), ("No.", "Species")])
    @pytest.mark.parametrize(
        ("suffix", "by"), [(".csv", ","), (".tsv", "\t"), (".txt", " "), (".txt", ","), (".txt", "\t"), (".csv", ";")]
    )
    def test_numbers_order_the_labels_in_either_column(
        self, order: str, number: int, header: tuple[str, ...], suffix: str, by: str, tmp_path: Path
    ) -> None:
        if header == ("No.", "Species") and (suffix == ".txt" or by == ";"):
            header = ()  # such lines could be labels: only a table has columns for sure
        columns = [tuple(order), tuple(NAMES[int(k)] for k in order)]
        rows = [header] if header else []
        rows += zip(*columns, strict=True)
        text = "".join(by.join(row if number == 0 else row[::-1]) + "\n" for row in rows)
        assert read_labels(write(tmp_path, f"a{suffix}", text), 5) == (NAMES, NAMES)

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_numbers_order_ids_and_labels_from_any_column(self, number: int, tmp_path: Path) -> None:
        rows = [[IDS[k], NAMES[k]] for k in (3, 1, 2, 0, 4)]
        for row, k in zip(rows, (3, 1, 2, 0, 4), strict=True):
            row.insert(number, str(k))
        text = "".join(",".join(row) + "\n" for row in rows)
        assert read_labels(write(tmp_path, "a.csv", text), 5) == (IDS, NAMES)

    def test_numbers_that_alone_tell_labels_apart_stay(self, tmp_path: Path) -> None:
        """Folders in alphabetical order have them so."""
        levels = ("level 0", "level 1", "level 10", "level 2", "level 3", "level 4", "level 5", "level 6", "level 7",
                  "level 8", "level 9")  # fmt: skip
        assert read_labels(write(tmp_path, "a.txt", "\n".join(levels)), 11)[1] == levels
        planes = ("Boeing 737", "Boeing 747", "Airbus 320")
        assert read_labels(write(tmp_path, "b.txt", "\n".join(planes)), 3)[1] == planes

    def test_repeated_labels_are_no_ids(self, tmp_path: Path) -> None:
        """ImageNet has two cranes."""
        twice = ("crane", "crane", "ant", "bee", "fly")
        assert read_labels(write(tmp_path, "a.txt", "\n".join(twice)), 5) == (NUMBERS, twice)

    def test_numbers_that_are_part_of_the_labels_stay(self, tmp_path: Path) -> None:
        cars = ("3 series", "5 series", "7 series", "911 turbo", "7 series")
        assert read_labels(write(tmp_path, "a.txt", "\n".join(cars)), 5)[1] == cars
        assert read_labels(write(tmp_path, "b.txt", "0\n90\n180\n270"), 4)[1] == ("0", "90", "180", "270")

    def test_without_a_source_the_classes_are_numbers(self) -> None:
        assert read_labels(None, 3) == (("0", "1", "2"),) * 2

    # No line breaks, blanks at the ends, digits first or brackets: they mean something in a text file.
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1)
                    .map(lambda text: f"x{text}x"), min_size=2, max_size=6, unique=True))  # fmt: skip
    def test_any_other_character_of_a_label_is_kept(
        self, tmp_path_factory: pytest.TempPathFactory, names: list[str]
    ) -> None:
        """Also the separators at which str.splitlines would cut."""
        path = write(tmp_path_factory.mktemp("labels"), "a.txt", "\n".join(names))
        assert read_labels(path, len(names))[1] == tuple(names)


class TestRefused:
    @pytest.mark.parametrize(
        ("name", "content", "cause"),
        [
            ("a.txt", "cat\ndog\n", "holds 2 labels, the model has 5 classes; give one per line for each"),
            ("a.txt", "", "holds 0 labels"),
            ("a.txt", "cat\ndog\nant\nbee\n", "holds 4 labels, the model has 5 classes; if the first output is"),
            ("a.txt", "background\n" + "\n".join(NAMES), "holds 6 labels, the model has 5 classes; if the first label"),
            ("a.txt", "cat\ndog\n\nbee\nfly\n", "its label 2 is empty"),
            ("a.txt", "\n".join(NAMES).encode("utf-16-le"), "it is not text"),
            ("a.txt", b"caf\xe9\n" * 5, "cannot be read as labels"),
            ("a.txt", b"x" * (MAX_USERS_BYTES + 1), "it is larger than 16 MiB"),
            ("a.txt", lines(tuple("12345"), NAMES, by=" "), "it numbers its classes from 1"),
            ("a.csv", lines(tuple("12345"), NAMES, by=","), "it numbers its classes from 1"),
            ("a.csv", "0,cat\n1,dog\n2,ant\n3,bee\n9,fly\n", "its numbers are not 0, 1, 2"),
            ("a.csv", "0,cat\n1,dog,x\n2,ant\n3,bee\n4,fly\n", "its rows are not"),
            ("a.txt", lines((IDS[0],) * 5, NAMES, by=" "), f"the class id {IDS[0]} stands for two classes"),
            ("a.json", "[1, 2, 3, 4, 5]", "not text"),
            ("a.json", '["cat", ', "cannot be read as labels"),
            ("labels", "[" * 100_000, "cannot be read as labels"),
            ("labels", '{\n"0": "a",\n"1": "b",\n"2": 3\n}\n', "not text"),  # five lines
            ("labels", "{\n'0': 'a',\n'1': 'b',\n'2': 'c'\n}\n", "cannot be read as labels"),
            ("a.txt", lines(NAMES, tuple("31524"), by=" "), "it numbers its classes from 1"),
            ("a.csv", lines(NAMES, tuple("31526"), by=","), "its numbers are not 0, 1, 2"),
            ("a.csv", "name,count\n" + lines(NAMES, tuple("57399"), by=","), "its numbers are not 0, 1, 2"),
            ("a.txt", "{1: 'b', 5: 'a'}", "its numbers are not 0, 1, 2 and so on, each once"),
            ("a.txt", "{0: 'b', 0: 'a'}", "its numbers are not 0, 1, 2 and so on, each once"),
            ("a.json", '{"a": 0, "b": 0}', "its numbers are not 0, 1, 2 and so on, each once"),
            ("a.json", json.dumps({str(k + 1): name for k, name in enumerate(NAMES)}), "it numbers its classes from 1"),
            ("a.json", json.dumps({name: k + 1 for k, name in enumerate(NAMES)}), "it numbers its classes from 1"),
            ("a.json", '{"a": "b", "c": "d"}', "does not number the labels"),
            ("a.json", '"cat"', "neither a list nor an object"),
            ("a.yaml", "path: x\n", "it has no entry 'names'"),
            ("a.yaml", 'names:\n- "c\\x61t"\n- dog\n', "has escapes"),
            ("a.yaml", "names:\n  1: cat\n  0: dog\n", "its numbers are not"),
        ],
    )  # fmt: skip
    def test_files_that_do_not_name_each_output(
        self, name: str, content: str | bytes, cause: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=re.escape(cause)) as refused:
            read_labels(write(tmp_path, name, content), 5)
        assert str(tmp_path / name) in str(refused.value)

    def test_a_file_that_is_missing_or_a_pipe(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match=r"nothing.txt: cannot be read as labels \(No such file or directory\); give"
        ):
            read_labels(tmp_path / "nothing.txt", 5)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match=r"cannot be read as labels \(it is a FIFO, not a plain file\); give"):
            read_labels(tmp_path / "pipe", 5)

    def test_one_label_of_a_model_of_one_score(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"holds 1 label, .* 2 classes; .* of the negative class first, then the"):
            read_labels(write(tmp_path, "a.txt", "defect\n"), 2)

    def test_the_order_of_the_devkit(self, tmp_path: Path) -> None:
        """It begins with the kit fox, published models with the tench."""
        other = ("n02119789", *(class_id for class_id in WORDNET if class_id != "n02119789"))
        with pytest.raises(InputError, match=r"another order than published models.*class 0 is n02119789 instead of"):
            read_labels(write(tmp_path, "a.txt", "\n".join(other)), 1000)

    def test_imagenet_has_a_thousand(self) -> None:
        with pytest.raises(InputError, match=r"imagenet1k: holds 1000 labels, the model has 5 classes"):
            read_labels("imagenet1k", 5)
        with pytest.raises(InputError, match=r"the model has 1001 classes; if the first output is a background class"):
            read_labels("imagenet1k", 1001)
