"""From files to the rows of a table: the arguments of a reading, and all rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from hepcal.errors import PairsError
from hepcal.events.executors import ExecutorFactory, in_this_process
from hepcal.events.features import Features
from hepcal.events.filesets import Fileset, load_fileset
from hepcal.events.inspection import Inspection, inspect
from hepcal.events.normalisation import require_comparable, say_normalisation
from hepcal.events.running import Run, require_chunksize, run
from hepcal.events.truth import Selection
from hepcal.tables.from_events import PairsProcessor, columns_of, inputs_of, source_of, weight_factors

__all__ = ["Reading", "ReadingOptions", "read_rows"]


class ReadingOptions(TypedDict, total=False):
    """Keyword arguments of what reads a table from files: those of :class:`Reading`, with its defaults."""

    jets: str
    truth: str
    max_dr: float | None
    keep_leptons: bool
    executor: ExecutorFactory | None
    chunksize: int
    allow_skipped: bool
    show: bool


@dataclass(frozen=True)
class Reading:
    """How files become rows.

    Attributes:
        fileset: Checked fileset.
        features: Inputs.
        jets: Collection of detector-level jets, ``Jet`` or ``FatJet``.
        truth: Particle-level jets, of which the two leading ones of each event are taken (``GenJet``,
            ``GenFatJet``, ``GenJetAK8``), or one particle per event, ``Particle[0]``, whose p_T is the truth of
            the nearest jet.
        max_dr: Largest distance sqrt(deta² + dphi²) of a jet and its truth; default 0.2, 0.4 for ``FatJet``, and
            1.2 where the truth is a particle.
        keep_leptons: Take particle-level jets that are prompt leptons, too (:mod:`hepcal.events.leptons`).
        executor: From :func:`hepcal.events.executors.open_executor`; default: this process.
        chunksize: Events per chunk, at most.
        allow_skipped: Leave out files that cannot be read (they are listed in ``source``).
        show: Report progress.
        selection: The jets and their truth, of the above.

    Raises:
        PairsError: The truth is not of this form, the distance or the chunks are not positive, or an argument is of
            another type.
    """

    fileset: Fileset
    features: Features
    jets: str = "Jet"
    truth: str = "GenJet"
    max_dr: float | None = None
    keep_leptons: bool = False
    executor: ExecutorFactory | None = None
    chunksize: int = 100_000
    allow_skipped: bool = False
    show: bool = True
    selection: Selection = field(init=False)

    def __post_init__(self) -> None:
        for name in ("jets", "truth"):
            if not isinstance(found := getattr(self, name), str):
                raise PairsError(f"{name} is the name of a collection, such as 'Jet' or 'GenJet', not {found!r}")
        require_chunksize(self.chunksize)
        if self.executor is not None and not callable(self.executor):
            raise PairsError(
                f"executor is what hepcal.events.executors.open_executor('futures') gives, not {self.executor!r}"
            )
        chosen = Selection.of(self.jets, self.truth, self.max_dr, keep_leptons=self.keep_leptons)
        object.__setattr__(self, "selection", chosen)

    @classmethod
    def of(
        cls,
        fileset: str | Path | Mapping[str, Any] | Fileset,
        features: Features | None,
        **options: Unpack[ReadingOptions],
    ) -> Reading:
        """Of a fileset that is not checked yet, with the default inputs of its files where none are given."""
        return cls(load_fileset(fileset), features or Features(), **options)

    def inspected(self) -> tuple[str, Features, Inspection]:
        """The schema of the files, the inputs with its defaults, and the files that have them.

        Raises:
            PairsError: The files have different schemas.
            FilesetError: Weights of several data sets cannot be compared.
            ReadError: Files cannot be read.
            MissingFieldError: A file lacks a branch that the features need.
        """
        needed = {self.selection.collection: ("pt", "eta", "phi")}
        found = inspect(self.fileset, needed, allow_skipped=self.allow_skipped, show=self.show)
        schema, spec, found = inputs_of(found, self.features, self.jets, allow_skipped=self.allow_skipped)
        require_comparable(found[0], self.fileset)
        return schema, spec, found

    def run(self, spec: Features, inspected: Inspection, title: str = "Reading jets", chunksize: int = 0) -> Run:
        """Read the rows of files.

        Args:
            spec: Inputs of the rows.
            inspected: The files, as of :meth:`inspected` or a part of them.
            title: Title of the progress report.
            chunksize: Events per chunk; default: as asked for.

        Raises:
            IncompleteRunError: No file is left, or not every planned event was processed.
        """
        order = {path: position for position, path in enumerate(self.fileset.paths)}
        return run(
            self.fileset,
            PairsProcessor(spec, order, self.selection),
            self.executor or in_this_process,
            title=title,
            chunksize=chunksize or self.chunksize,
            allow_skipped=self.allow_skipped,
            show=self.show,
            inspected=inspected,
        )


def read_rows(reading: Reading) -> tuple[dict[str, np.ndarray], Features, dict[str, Any]]:
    """The columns of a table, its inputs, and the provenance of its rows.

    Raises:
        HepcalError: As :meth:`Reading.inspected`, or not every planned event was processed.
    """
    schema, spec, inspected = reading.inspected()
    done = reading.run(spec, inspected)
    factors = weight_factors(done.output["sum_of_weights"], done.files, reading.fileset)
    columns = columns_of(done.output, factors)
    say_normalisation(factors if reading.show else {})
    return columns, spec, source_of(done, schema, reading.selection, factors)
