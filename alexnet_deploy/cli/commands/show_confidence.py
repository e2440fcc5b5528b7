"""What a fit of a temperature found: tables for people, JSON with stable field names for programs."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alexnet_deploy.contract import ModelContract
from alexnet_deploy.evaluation.temperature_record import ConfidenceRecord, read_confidence


def fit(console: Console, bundle: Path, record: ConfidenceRecord, *, as_json: bool) -> None:
    """The temperature and what it did to the probabilities."""
    if as_json:
        print(json.dumps({"bundle": str(bundle)} | record.summary(), indent=1, allow_nan=False))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("temperature", "NLL", "ECE %"):
        table.add_column(column, justify="right")
    for temperature, quality in ((1.0, record.before), (record.temperature, record.after)):
        table.add_row(f"{temperature:.4f}", f"{quality.nll_nats:.4f}", f"{quality.ece_percent:.2f}")
    console.print(table)
    console.print(
        f"{bundle}/ now has temperature {record.temperature:.4f}, fitted on {record.images} images of {record.classes} "
        f"classes in {record.runtime}; measure it on others: alexnet-deploy evaluate",
        soft_wrap=True,
    )


def temperature(console: Console, bundle: Path, contract: ModelContract) -> None:
    """One line: where the temperature of a bundle comes from; ArtifactError where record and contract disagree."""
    record = read_confidence(bundle, contract)
    if record is not None:
        text = (
            f"{contract.temperature:.4f}, fitted on {record.images} images ({record.created}): "
            f"ECE {record.before.ece_percent:.2f} -> {record.after.ece_percent:.2f} %"
        )
    elif contract.temperature != 1.0:
        text = f"{contract.temperature:.4f}, of the model that the bundle was built from, not fitted to this bundle"
    else:
        text = "1, probabilities are not calibrated: alexnet-deploy calibrate-confidence"
    console.print(f"temperature {text}", soft_wrap=True)
