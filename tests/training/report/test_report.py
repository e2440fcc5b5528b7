"""The report of a real run: its numbers are those of ``evaluate``, and what was planted is found."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from alexnet_deploy.model.checkpoint import load_checkpoint
from tests.helpers.command import Command
from tests.helpers.html_page import Page
from tests.helpers.models.tiny_runs import metrics_of
from tests.helpers.photos import CLASSES
from tests.training.report.conftest import COPIED, COPY, MISLABELLED, Finished
from training.data.lists.exclude import exclude_images
from training.loop.run import Run
from training.plan import TrainSettings
from training.report.again import OTHER_IMAGES
from training.report.card import card_text
from training.report.files import read_metrics
from training.report.measure import RunReport, measure_run
from training.start.seen import MAY_KNOW
from training.train import train_run


@pytest.fixture(scope="module")
def measured(finished: Finished) -> RunReport:
    run, checkpoint = finished.run, load_checkpoint(finished.output / "checkpoint.safetensors")
    return measure_run(
        "tiny", checkpoint, read_metrics(finished.output / "metrics.jsonl"), run.train, run.val, workers=0
    )


def shown(path: Path) -> str:
    return " ".join(Page(path.read_text(encoding="utf-8")).text.split())


def section(text: str, start: str, end: str) -> str:
    """The text of a page from the last ``start`` to the ``end`` after it."""
    return text[text.rindex(start) :].partition(end)[0]


class TestNumbers:
    def test_that_the_start_may_know_the_images_is_said_beside_them(self, finished: Finished) -> None:
        run, checkpoint = finished.run, load_checkpoint(finished.output / "checkpoint.safetensors")
        started = {"source": "x", MAY_KNOW: True}
        doubtful = dataclasses.replace(checkpoint, recipe=checkpoint.recipe | {"started_from": started})
        report = measure_run("tiny", doubtful, (), run.train, run.val, workers=0)
        assert "- The run began with weights that know its classes, and may have been" in card_text(report)

    def test_those_of_the_page_and_the_card_are_those_of_evaluate(self, finished: Finished, cli: Command) -> None:
        checkpoint = finished.output / "checkpoint.safetensors"
        _, out, _ = cli("evaluate", checkpoint, finished.data / "val", "--confusion", "--workers", "0")
        expected = json.loads(out)
        page, card = shown(finished.output / "report.html"), (finished.output / "card.md").read_text()
        low, high = expected["top1_interval"]
        assert f"Validation, top-1{expected['top1_percent']:.2f} %95 % interval {low:.1f}..{high:.1f}" in page
        assert f"ECE {expected['ece_percent']:.2f} %, cross-entropy {expected['nll_nats']:.3f}" in page
        assert f"| top-1 | {expected['top1_percent']:.2f} % ({low:.1f}..{high:.1f}) |" in card
        assert f"| calibration error (ECE) | {expected['ece_percent']:.2f} % |" in card
        for number, (class_id, label) in enumerate(zip(CLASSES, ("red", "green", "blue"), strict=True), 1):
            counts = expected["confusion"][number - 1]
            assert f"{number} {label}{''.join(str(count or '·') for count in counts)}" in page
            assert f"{label}{sum(counts)}{expected['top1_percent_by_class'][class_id]:.1f} (" in page

    def test_the_curves_are_those_of_the_record(self, finished: Finished) -> None:
        html = (finished.output / "report.html").read_text()
        rows = metrics_of(finished.output)
        assert len(rows) == 5
        lines = re.findall(r'<polyline class="line s\d" points="([^"]+)"', html)
        assert [len(line.split()) for line in lines] == [5] * 4, "two losses, accuracy, rate"
        heights = [100 - float(point.split(",")[1]) for point in lines[2].split()]
        percents = [row["val_top1_percent"] for row in rows]
        assert sorted(range(5), key=lambda i: (heights[i], i)) == sorted(range(5), key=lambda i: (percents[i], i))
        for row in rows:
            assert f"{row['train_loss']:.4f}" in shown(finished.output / "report.html")

    def test_training_images_are_measured_as_validation_images_are(self, finished: Finished, cli: Command) -> None:
        checkpoint = finished.output / "checkpoint.safetensors"
        _, out, _ = cli("evaluate", checkpoint, finished.data / "train", "--workers", "0")
        page = shown(finished.output / "report.html")
        assert f"Training images, top-1{json.loads(out)['top1_percent']:.2f} %" in page


class TestFindings:
    def test_a_planted_copy_is_found_in_both_splits(self, finished: Finished, measured: RunReport) -> None:
        (pair,) = measured.copies
        assert {pair.first.file, pair.second.file} == {finished.data / COPY, finished.data / COPIED}
        assert (pair.crosses_splits, pair.crosses_classes) == (True, False)
        found = section(shown(finished.output / "report.html"), "Near-duplicates", "Doubted labels")
        assert "1 pair: 0 in two classes (one label is wrong), 1 in both splits" in found
        assert found.count("n01_red/copy.jpg") == found.count("n01_red/1.jpg") == 1

    def test_a_planted_wrong_label_is_doubted(self, finished: Finished, measured: RunReport) -> None:
        doubt = next(each for each in measured.doubted if each.photo.split == "validation")
        assert doubt.photo.file == finished.data / MISLABELLED
        assert measured.labels[doubt.suggested] == "blue"
        assert doubt.probability > doubt.label_probability
        page = section(shown(finished.output / "report.html"), "Doubted labels", "How it was trained")
        assert "n02_green/blue.jpg" in page

    def test_mistakes_are_all_wrong_answers_the_worst_first(self, finished: Finished, measured: RunReport) -> None:
        found = measured.mistakes
        assert finished.data / MISLABELLED in [each.photo.file for each in found]
        assert len(found) == sum(count for _, _, count in measured.confusions)
        assert len(found) == measured.accuracy.images - sum(row.right for row in measured.classes)
        assert [each.truth_probability for each in found] == sorted(each.truth_probability for each in found)
        for each in found:
            assert each.answer != each.photo.target
            assert each.probability > each.truth_probability

    def test_the_list_of_suspects_leaves_out_what_a_reader_chooses(self, finished: Finished, tmp_path: Path) -> None:
        listing = tmp_path / "suspects.txt"
        text = (finished.output / "suspects.txt").read_text()
        listing.write_text(text)
        run = finished.run
        assert exclude_images(finished.data, listing, run.train, run.val) == (run.train, run.val), "nothing by itself"
        listing.write_text(text.replace(f"#{finished.data / MISLABELLED}", f"{finished.data / MISLABELLED}"))
        train, val = exclude_images(finished.data, listing, run.train, run.val)
        assert train == run.train
        assert set(run.val.files) - set(val.files) == {finished.data / MISLABELLED}


class TestCommand:
    @pytest.fixture
    def run(self, finished: Finished, tmp_path: Path) -> Path:
        for name in ("checkpoint.safetensors", "metrics.jsonl", "data.json"):
            (tmp_path / "again").mkdir(exist_ok=True)
            shutil.copy(finished.output / name, tmp_path / "again" / name)
        return tmp_path / "again"

    def test_it_draws_the_same_page_again(self, finished: Finished, run: Path, cli: Command) -> None:
        code, out, err = cli("report", run, "--workers", "0")
        assert (code, out) == (0, "")
        assert err.splitlines()[-1] == f"wrote {run / 'report.html'} and {run / 'card.md'}"
        again, first = (shown(folder / "report.html") for folder in (run, finished.output))
        of_run = re.compile(r"Training run \w+|\d{4}-\d\d-\d\d \d\d:\d\d UTC")
        assert of_run.sub("", again) == of_run.sub("", first)
        assert OTHER_IMAGES not in again

    def test_other_images_are_said_to_be_others(
        self, finished: Finished, run: Path, tmp_path: Path, cli: Command
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(finished.data, other)
        (other / MISLABELLED).unlink()
        assert cli("report", run, other, "--workers", "0").code == 0
        assert OTHER_IMAGES in shown(run / "report.html")
        assert f"- {OTHER_IMAGES}" in (run / "card.md").read_text()

    def test_files_that_training_may_leave_out_can_be_left_out_here(
        self, finished: Finished, run: Path, tmp_path: Path, cli: Command
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(finished.data, other)
        (other / MISLABELLED).with_name("gone.jpg").symlink_to("nowhere.jpg")
        command = ("report", run, other, "--workers", "0")
        assert "gone.jpg: no such file" in cli(*command).error
        assert cli(*command, "--allow-unreadable").code == 0
        assert OTHER_IMAGES not in shown(run / "report.html")

    def test_a_list_of_suspects_that_was_edited_stays(self, run: Path, cli: Command) -> None:
        (run / "suspects.txt").write_text("# looked at\n/some/photo.jpg\n")
        assert cli("report", run, "--workers", "0").code == 0
        assert (run / "suspects.txt").read_text() == "# looked at\n/some/photo.jpg\n"

    def test_a_run_that_does_not_say_where_its_images_are(self, finished: Finished, run: Path, cli: Command) -> None:
        (run / "data.json").unlink()
        assert cli("report", run) == (
            1, "", f"error: {run}: has no data.json, so its images are unknown; give DATA\n",
        )  # fmt: skip
        assert cli("report", run, finished.data, "--workers", "0").code == 0
        assert OTHER_IMAGES not in shown(run / "report.html")

    @pytest.mark.parametrize("text", ["", "[]", '{"data": 1}', '{"data": "x", "seed": "y"}', "\xff"])
    def test_a_damaged_record_of_the_images_is_one_line(self, run: Path, cli: Command, text: str) -> None:
        (run / "data.json").write_text(text, encoding="latin-1")
        code, out, err = cli("report", run)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "does not say which images the run had" in err

    def test_a_damaged_record_of_the_epochs_is_one_line(self, run: Path, cli: Command) -> None:
        (run / "metrics.jsonl").write_text('{"epoch": 1}\n')
        code, out, err = cli("report", run)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "metrics.jsonl: is not a readable record of epochs" in err
        (run / "metrics.jsonl").unlink()
        assert cli("report", run, "--workers", "0").code == 0
        assert "no record of its epochs" in shown(run / "report.html")

    def test_data_of_other_classes_and_a_folder_without_a_run(
        self, finished: Finished, run: Path, tmp_path: Path, cli: Command
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(finished.data, other)
        for split in ("train", "val"):
            (other / split / "n03_blue").rename(other / split / "n04_pink")
        code, _, err = cli("report", run, other)
        assert code == 1
        assert "give the data that it was trained on" in err
        code, _, err = cli("report", tmp_path)
        assert code == 1
        assert "no such checkpoint" in err


class TestEndOfTraining:
    """``train`` on a run that has no step left, so that only its ending is new."""

    @pytest.fixture
    def over(self, finished: Finished, tmp_path: Path) -> Run:
        shutil.copytree(
            finished.output, tmp_path / "over", ignore=shutil.ignore_patterns("report.html", "*.md", "*.txt")
        )
        return dataclasses.replace(finished.run, output=tmp_path / "over", resume=True)

    def test_the_report_is_written_unless_it_is_skipped(self, over: Run) -> None:
        notes: list[str] = []
        train_run(over, TrainSettings(skip_report=True), on_note=notes.append)
        assert not (over.output / "report.html").exists()
        train_run(over, TrainSettings(), on_note=notes.append)
        assert {"report.html", "card.md", "suspects.txt"} <= {path.name for path in over.output.iterdir()}
        assert not [note for note in notes if "no report" in note]

    def test_a_report_that_cannot_be_written_does_not_cost_the_weights(self, over: Run) -> None:
        (over.output / "report.html").mkdir()
        notes: list[str] = []
        checkpoint = train_run(over, TrainSettings(), on_note=notes.append)
        assert load_checkpoint(checkpoint).contract.labels == ("red", "green", "blue")
        (note,) = (note for note in notes if note.startswith("no report of the run: "))
        assert f"{over.output / 'report.html'}: " in note
        assert note.endswith("write it later: python -m training report")
