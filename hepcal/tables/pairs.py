"""JetPairs: the training table, one row per matched jet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from hepcal.arrays import numbers, unmasked
from hepcal.errors import NonFiniteFeatureError, PairsError
from hepcal.events.constituents import Constituents
from hepcal.events.features import Feature, Features
from hepcal.events.filesets import Fileset
from hepcal.events.schemas import PtKind
from hepcal.events.threshold import known_cut
from hepcal.statistics import n_eff
from hepcal.tables.files import CARD, open_columns, read_card, source_in, writing
from hepcal.tables.from_events import COLUMNS
from hepcal.tables.rows import Rows, check_rows, chunks, selected, taken

if TYPE_CHECKING:
    from hepcal.tables.reading import ReadingOptions

__all__ = ["JetPairs"]

TABLE_VERSION = 1
OPTIONAL = ("truth_error",)
LARGEST_WEIGHT = 1e140


@dataclass(frozen=True, slots=True)
class JetPairs:
    """Matched jets as columns: what a calibrator learns from.

    Rows are the two leading particle-level jets of each event, matched one to one within dR < 0.2 (or the particles
    asked of :meth:`from_fileset`); no cut is made on the detector-level p_T.

    Attributes:
        features: Inputs before transforms, float32 of shape (n, d); of a large part of a saved table, what reads rows
            from disk when they are asked for (:class:`hepcal.tables.rows.StoredRows`).
        reco: Detector-level p_T [GeV], float32 of shape (n,).
        truth: Particle-level p_T [GeV], float32 of shape (n,).
        weight: Event weight, float64 of shape (n,); may be negative. That of the file, scaled to the
            ``cross_section`` [pb] of the data sets where they give one.
        event: Id of the event, int64 of shape (n,); jets of one event share it.
        spec: Names, transforms and p_T convention of the features.
        source: Where the rows come from: schema, collections, ids of the files, counts of unmatched jets and of jets
            that lost constituents (``truncated_jets``), of prompt ``leptons`` that were left out, and what the
            threshold of the files does (:mod:`hepcal.events.threshold`): ``reco_threshold`` and ``truncated_below``
            [GeV].
        truth_error: Error of each truth as a reference value [GeV], float32 of shape (n,), or None: for calibration
            samples (:mod:`hepcal.augment.labels`).
    """

    features: Rows
    reco: np.ndarray
    truth: np.ndarray
    weight: np.ndarray
    event: np.ndarray
    spec: Features
    source: Mapping[str, Any] = field(default_factory=dict)
    truth_error: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.reco)

    def __repr__(self) -> str:
        return (
            f"<JetPairs: {len(self)} jets of {len(np.unique(self.event))} events, n_eff {self.n_eff:.0f}, "
            f"inputs ln(pt), {self.spec.listed}>"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that this table has."""
        return COLUMNS if self.truth_error is None else (*COLUMNS, *OPTIONAL)

    @property
    def n_eff(self) -> float:
        """Effective number of jets, (sum w)² / sum w²."""
        return n_eff(self.weight)

    @property
    def sha256(self) -> str:
        """Hash of the content of all columns and of the feature specification."""
        digest = hashlib.sha256(self.spec.model_dump_json().encode())
        for name in self.columns:
            for _, values in chunks(getattr(self, name)):
                digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    @classmethod
    def from_arrays(
        cls,
        features: np.ndarray,
        names: Sequence[str | Feature],
        *,
        reco: np.ndarray,
        truth: np.ndarray,
        weight: np.ndarray | None = None,
        event: np.ndarray | None = None,
        pt: PtKind = "pt",
        constituents: Constituents | None = None,
        truth_error: np.ndarray | None = None,
        threshold: float | None = None,
    ) -> JetPairs:
        """A table from arrays of your own.

        Args:
            features: Inputs, shape (n, d), or (n, d + 4 count) with constituents; ln(reco) is added by the calibrator
                and must not be among them.
            names: Names (or :class:`Feature` with a transform) of the d inputs.
            reco: Detector-level p_T [GeV], shape (n,), > 0.
            truth: Particle-level p_T [GeV], shape (n,), > 0.
            weight: Event weights, shape (n,); default one.
            event: Event ids, integers of shape (n,), so that jets of one event stay together in a split; default: all
                different.
            pt: What ``reco`` is on the jets that the calibrator will meet: ``pt``, or ``raw`` for
                ``pt (1 - rawFactor)`` of NanoAOD.
            constituents: What the columns behind the d inputs are, if the table has constituents.
            truth_error: Error of each truth as a reference value [GeV], shape (n,), not negative.
            threshold: The cut on ``reco`` [GeV] that selected the jets, near which they are out of range
                (:mod:`hepcal.events.threshold`); default: there was none.

        Raises:
            PairsError: Shapes disagree, or a value is not finite or not positive.

        >>> eta, reco, truth = [[0.1], [-1.2]], [980.0, 1210.0], [1000.0, 1200.0]
        >>> JetPairs.from_arrays(eta, ["eta"], reco=reco, truth=truth, event=[7, 7])
        <JetPairs: 2 jets of 1 events, n_eff 2, inputs ln(pt), eta>
        """
        n = len(reco := unmasked("reco", reco))
        if event is not None and (event := unmasked("event", event)).dtype.kind not in "iu":
            raise PairsError(f"event ids must be integers, found {event.dtype}: rounding would merge events")

        def column(name: str, values: Any, dtype: Any = np.float32) -> np.ndarray:
            return np.ascontiguousarray(numbers(name, values, dtype))

        table = cls(
            features=column("features", features),
            reco=column("reco", reco),
            truth=column("truth", truth),
            weight=np.ones(n) if weight is None else column("weight", weight, np.float64),
            event=np.arange(n, dtype=np.int64) if event is None else column("event", event, np.int64),
            spec=Features.model_validate({"inputs": tuple(names), "constituents": constituents, "pt": pt}),
            source={"schema": "arrays"},
            truth_error=None if truth_error is None else column("truth_error", truth_error),
        )
        if threshold is not None:
            known = known_cut(threshold, table.reco, table.truth)
            table = replace(table, source={**table.source, **known.source})
        table.check()
        return table

    @classmethod
    def from_fileset(
        cls,
        fileset: str | Path | Mapping[str, Any] | Fileset,
        features: Features | None = None,
        **options: Unpack[ReadingOptions],
    ) -> JetPairs:
        """Read jets from ROOT files, in parallel if an executor is given.

        Rows are ordered by file, event and truth p_T, whatever the executor and the chunks.

        Args:
            fileset: Path of a fileset, or its content.
            features: Inputs; default: those of the schema of the files and of the kind of jets.
            options: Keyword arguments ``jets``, ``truth``, ``max_dr``, ``keep_leptons``, ``executor``, ``chunksize``,
                ``allow_skipped`` and ``show``: what they are, and their defaults, says
                :class:`hepcal.tables.reading.Reading`.

        Raises:
            PairsError: The files have different schemas, or hold no matched jet, or the truth is none.
            ReadError: Files cannot be read, or have no particle-level jets (collision data).
            FilesetError: Weights of several data sets cannot be compared, see
                :func:`hepcal.events.normalisation.require_comparable`.
            MissingFieldError: A file lacks a branch that the features need.
        """
        from hepcal.tables.reading import Reading, read_rows

        columns, spec, source = read_rows(Reading.of(fileset, features, **options))
        table = cls(**columns, spec=spec, source=source)
        table.check()
        return table

    def check(self) -> None:
        """Refuse a table that cannot be trained on.

        Raises:
            PairsError: It is empty, shapes disagree, or a value is not finite or not positive; says where.
        """
        n = len(self.reco)
        for name in self.columns:
            if isinstance(getattr(self, name), np.ma.MaskedArray):
                unmasked(name, getattr(self, name))
                raise PairsError(f"{name} is a masked array: make the table with JetPairs.from_arrays")
        if n == 0:
            raise PairsError(f"no matched jets: nothing to train on (source: {dict(self.source)})")
        if self.features.shape != (n, self.spec.width):
            raise PairsError(
                f"features have the shape {self.features.shape}; expected ({n}, {self.spec.width}): "
                f"{n} jets and the inputs {self.spec.listed}"
            )
        for name in self.columns[2:]:
            if getattr(self, name).shape != (n,):
                raise PairsError(f"{name} has the shape {getattr(self, name).shape}; expected ({n},)")
        error = np.zeros(1) if self.truth_error is None else self.truth_error
        for name, limit, good in (
            ("truth", "NaN, infinite or not positive", np.isfinite(self.truth) & (self.truth > 0)),
            ("weight", "NaN or infinite", np.isfinite(self.weight)),
            (
                "weight",
                f"beyond {LARGEST_WEIGHT:g}, so that squares overflow,",
                np.abs(self.weight, dtype=np.float64) < LARGEST_WEIGHT,
            ),
            ("truth_error", "NaN, infinite or negative", np.isfinite(error) & (error >= 0)),
        ):
            if not good.all():
                raise PairsError(
                    f"{name!r} is {limit} in {np.sum(~good)} of {n} rows, first in row {int(np.argmin(good))}"
                )
        try:
            check_rows(self.spec.check, self.features, self.reco)
        except NonFiniteFeatureError as error:
            raise PairsError(f"the table cannot be trained on: {error}") from error

    def split(self, fraction: float, seed: int) -> tuple[JetPairs, JetPairs]:
        """Split by event into a part of about ``fraction`` and the rest.

        Args:
            fraction: Share of the events in the first part, between 0 and 1.
            seed: The same seed gives the same split.
        """
        if not 0 < fraction < 1:
            raise PairsError(f"a split needs a fraction between 0 and 1, found {fraction}")
        events = np.unique(self.event)
        shuffled = np.random.default_rng(seed).permutation(events)
        first = np.isin(self.event, shuffled[: round(fraction * len(events))])
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))

    def take(self, rows: np.ndarray) -> JetPairs:
        """The given rows, in the given order; features stay on disk where that is a large part of a saved table.

        Raises:
            MissingValueError: A row is masked or missing itself, as in a mask of numpy that has a mask.
        """
        rows = rows if isinstance(rows, slice) else unmasked("rows", rows)
        columns: dict[str, Any] = {name: taken(getattr(self, name), rows) for name in self.columns}
        return replace(self, **columns)

    def select(self, spec: Features) -> JetPairs:
        """The table with the inputs of ``spec``, a selection of those it holds.

        Raises:
            PairsError: It lacks one of them, has it with another transform, or is of another p_T.
        """
        if spec == self.spec:
            return self
        if spec != self.spec.selected(spec.names, constituents=spec.constituents is not None):
            raise PairsError(f"the table holds {self.spec!r}, which has not the inputs {spec!r}")
        columns = self.spec.columns_of(spec)
        return replace(self, features=selected(self.features, columns), spec=spec)

    def save(self, directory: str | Path) -> None:
        """Write the table as one ``.npy`` file per column and a ``table.json``; nothing is left half written.

        Raises:
            PairsError: The directory exists and is not a saved table.
        """
        with writing(directory) as writer:
            for name in self.columns:
                for _, values in chunks(getattr(self, name)):
                    writer.append(name, values)
            writer.finish(self._card(self.spec, self.source))

    @classmethod
    def write(
        cls,
        fileset: str | Path | Mapping[str, Any] | Fileset,
        directory: str | Path,
        features: Features | None = None,
        **options: Unpack[ReadingOptions],
    ) -> JetPairs:
        """Read jets from ROOT files into a saved table, and open it; memory is that of the largest file.

        The same table as that of :meth:`from_fileset`, with the same arguments, when it is saved. A table that is in
        the directory is replaced once the new one is complete.

        Raises:
            PairsError: The directory exists and is not a saved table; or as :meth:`from_fileset`.
        """
        from hepcal.tables.reading import Reading
        from hepcal.tables.writing import write_rows

        reading = Reading.of(fileset, features, **options)
        with writing(directory) as writer:
            spec, source = write_rows(reading, writer)
            writer.finish({**cls._card(spec, source), "columns": COLUMNS})
            cls.open(writer.path).check()
        return cls.open(directory)

    @staticmethod
    def _card(spec: Features, source: Mapping[str, Any]) -> dict[str, Any]:
        return {"version": TABLE_VERSION, "spec": json.loads(spec.model_dump_json()), "source": dict(source)}

    @classmethod
    def open(cls, directory: str | Path) -> JetPairs:
        """Open a saved table; columns stay on disk until they are used (memory-mapped).

        Raises:
            PairsError: The directory is not a saved table, or a column is missing or damaged.
        """
        path = Path(directory)
        try:
            card = read_card(path)
            if card.get("version") != TABLE_VERSION:
                raise ValueError(f"{CARD} has the version {card.get('version')!r}; this hepcal reads {TABLE_VERSION}")
            spec, source = Features.model_validate(card.get("spec")), source_in(card)
            names = (*COLUMNS, *(name for name in OPTIONAL if name in card.get("columns", ())))
            columns = open_columns(path, card, names, spec.width)
        except (OSError, ValueError, TypeError) as error:
            raise PairsError(f"{path} is not a training table written by 'hepcal pairs': {error}") from error
        return cls(**columns, spec=spec, source=source)
