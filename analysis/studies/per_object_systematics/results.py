"""Command line, results as JSON, and figures that all studies share."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import matplotlib.pyplot as plt
import numpy as np
import typer
from figures import DRAWN

from hepcal.methods.card import Card
from hepcal.plot.panels import STYLE

__all__ = ["DataOption", "Options", "OutputOption", "QuickOption", "plain"]

HERE = Path(__file__).parent

DataOption = Annotated[Path, typer.Option(help="Folder with top/ and qcd_fatjets/.")]
OutputOption = Annotated[Path, typer.Option(help="Where tables, trainings, results and figures go.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Fewer jets, trainings and updates: at most ten minutes.")]


@dataclass
class Options:
    """One run of a study: where things are, and how much is done."""

    name: str
    data: Path
    output: Path
    quick: bool

    def __post_init__(self) -> None:
        self.begun = monotonic()

    @property
    def trainings(self) -> Path:
        """Columns of finished trainings: a study that was interrupted goes on from them."""
        return self.output / "trainings"

    def finish(self, found: dict[str, Any]) -> None:
        """Write ``<name>.json`` and its figures; nothing is left half written."""
        minutes = round((monotonic() - self.begun) / 60, 1)
        content = {
            "study": self.name, "quick": self.quick, "minutes": minutes, "versions": Card.software(), **plain(found)
        }  # fmt: skip
        self.output.mkdir(parents=True, exist_ok=True)
        target = self.output / f"{self.name}.json"
        with tempfile.TemporaryDirectory(dir=self.output, prefix=".part-") as scratch:
            part = Path(scratch) / target.name
            part.write_text(json.dumps(content, indent=1))
            part.replace(target)
        print(f"{target}: {minutes} minutes")
        with plt.rc_context(STYLE):
            for title, draw in DRAWN[self.name].items():
                figure = draw(content)
                for suffix in ("png", "pdf"):
                    (self.output / "figures").mkdir(exist_ok=True)
                    figure.savefig(self.output / "figures" / f"{self.name}_{title}.{suffix}")
                plt.close(figure)


def plain(value: Any) -> Any:
    """For JSON: lists and numbers of at most six digits; None for NaN."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
