"""Which inputs a calibrator sees, and how jets become a float32 table of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import awkward as ak
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hepcal.arrays import Readable, numbers
from hepcal.errors import MissingFieldError, NonFiniteFeatureError, PairsError, SchemaError
from hepcal.events.candidates import jet_constituents, require_constituents
from hepcal.events.constituents import Constituents
from hepcal.events.entries import entry, place
from hepcal.events.event_level import event_input
from hepcal.events.raw_momentum import (
    FACTOR,
    PtKind,
    detector_pt,
    is_changed,
    original,
    original_field,
    raw,
    raw_fields,
)
from hepcal.events.schemas import PFNANO_INDEX, SCHEMAS, Schema

__all__ = ["DEFAULT_FEATURES", "FATJET_FEATURES", "Constituents", "Feature", "Features"]

Transform = Literal["identity", "abs", "log", "log1p"]
# Fields that jet corrections change.
SCALED = ("pt", "mass", FACTOR)


class Feature(BaseModel):
    """One input: a field and what is done to it before standardisation.

    Attributes:
        name: Field of the jets, or ``event_...`` for an event-level input (see
            :func:`hepcal.events.schemas.event_field`).
        transform: ``identity``, ``abs``, ``log`` (positive inputs) or ``log1p`` (inputs >= 0, long tails).
        of: ``raw`` for the ``mass`` of the uncorrected jet, ``mass (1 - rawFactor)``; None: the field of the file.

    Raises:
        pydantic.ValidationError: ``raw`` is asked of another field, which jet corrections do not change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    transform: Transform = "identity"
    # Left out of JSON where it is not used: calibrators and tables from before keep their hashes.
    of: Literal["raw"] | None = Field(default=None, exclude_if=lambda of: of is None)

    @model_validator(mode="after")
    def _is_scaled(self) -> Feature:
        if self.of == "raw" and self.name != "mass":
            raise ValueError(f"of='raw' is for 'mass', which jet corrections scale, not for {self.name!r}")
        return self

    @property
    def label(self) -> str:
        """Its name, for people."""
        return f"{self.of} {self.name}" if self.of else self.name

    def fields(self, jets: ak.Array) -> tuple[str, ...]:
        """The fields of these jets that hold it. Reads nothing.

        Raises:
            SchemaError: They cannot be known, see :mod:`hepcal.events.raw_momentum`.
        """
        if self.of == "raw":
            return raw_fields(jets, self.name)
        return (original_field(jets, self.name) if self.name in SCALED else self.name,)

    def column(self, jets: ak.Array) -> np.ndarray:
        """Its values for a flat list of jets, float32."""
        if self.of == "raw":
            return _column(self.label, raw(jets, self.name))
        return _column(self.label, original(jets, self.name) if self.name in SCALED else jets[self.name])


class Features(BaseModel):
    """The inputs of a calibrator, saved with it.

    The logarithm of the detector-level p_T always comes first and is not listed.

    Attributes:
        inputs: Features in order; a bare name means no transform. Empty means the default of the files' schema and
            of the kind of jets (:data:`DEFAULT_FEATURES`, :data:`FATJET_FEATURES`), or no features beside the
            constituents.
        constituents: Four-vectors of the constituents as further inputs, behind the others; None: none.
        pt: Detector-level p_T: ``raw`` is ``pt (1 - rawFactor)``, ``pt`` the field; None means the schema's default
            (``raw`` on NanoAOD and PFNano, ``pt`` on Delphes).

    Raises:
        pydantic.ValidationError: A name is given twice, or a key is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[Feature, ...] = ()
    constituents: Constituents | None = None
    pt: PtKind | None = None

    @field_validator("inputs", mode="before")
    @classmethod
    def _bare_names(cls, inputs: Any) -> Any:
        return tuple(
            {"name": f} if isinstance(f, str) else f for f in ([inputs] if isinstance(inputs, str) else inputs)
        )

    @model_validator(mode="after")
    def _no_repeats(self) -> Features:
        names = [feature.name for feature in self.inputs]
        if len(set(names)) < len(names):
            raise ValueError(f"features are listed twice: {sorted({n for n in names if names.count(n) > 1})}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names in table order, without ln p_T and constituents."""
        return tuple(feature.name for feature in self.inputs)

    @property
    def width(self) -> int:
        """Columns of a table: one per feature, and four per slot of a constituent."""
        return len(self.inputs) + (0 if self.constituents is None else self.constituents.width)

    @property
    def listed(self) -> str:
        """All inputs but ln p_T, for people."""
        momenta = () if self.constituents is None else (str(self.constituents),)
        return ", ".join((*(feature.label for feature in self.inputs), *momenta)) or "none"

    @property
    def event_names(self) -> tuple[str, ...]:
        """The event-level ones among them."""
        return tuple(name for name in self.names if name.startswith("event_"))

    @property
    def jet_fields(self) -> tuple[str, ...]:
        """The jet fields of a file that are read: p_T, features, and the axis that constituents are around."""
        pt = ("pt", FACTOR) if self.pt == "raw" else ("pt",)
        factor = (FACTOR,) if any(feature.of == "raw" for feature in self.inputs) else ()
        axis = () if self.constituents is None else ("eta", "phi")
        return tuple(dict.fromkeys((*pt, *factor, *(feature.name for feature in self._of_jets), *axis)))

    @property
    def _of_jets(self) -> list[Feature]:
        return [feature for feature in self.inputs if not feature.name.startswith("event_")]

    def fields_of(self, jets: ak.Array) -> tuple[str, ...]:
        """The fields of these jets that are read: :attr:`jet_fields`, or what corrections kept of them.

        With what links PFNano jets to their constituents where those are used. Reads nothing.

        Raises:
            SchemaError: A correction did not keep what is needed, see :mod:`hepcal.events.raw_momentum`.
        """
        pt = raw_fields(jets) if self.pt == "raw" else (original_field(jets),)
        inputs = [name for feature in self._of_jets for name in feature.fields(jets)]
        axis = () if self.constituents is None else ("eta", "phi")
        linked = (PFNANO_INDEX,) if self.constituents is not None and PFNANO_INDEX in jets.fields else ()
        return tuple(dict.fromkeys((*pt, *inputs, *axis, *linked)))

    def selected(self, names: Sequence[str], *, constituents: bool = False) -> Features:
        """With some of the inputs only.

        Args:
            names: Features to keep.
            constituents: Keep the constituents, too, if there are any.

        Raises:
            PairsError: A name is not among them.
        """
        if missing := [name for name in names if name not in self.names]:
            raise PairsError(f"no input {', '.join(missing)} among {', '.join(self.names) or 'no inputs'}")
        kept = self.constituents if constituents else None
        return Features(inputs=tuple(f for f in self.inputs if f.name in names), constituents=kept, pt=self.pt)

    def columns_of(self, spec: Features) -> list[int]:
        """Columns of a table of these inputs that hold those of ``spec``, one of its selections."""
        momenta = range(len(self.inputs), self.width) if spec.constituents else ()
        return [*(self.names.index(name) for name in spec.names), *momenta]

    def resolved(self, schema: str, jets: str = "Jet") -> Features:
        """With the defaults of a schema and a jet collection filled in where nothing was chosen."""
        default = (FATJET_FEATURES if jets == "FatJet" else DEFAULT_FEATURES)[schema]
        inputs = self.inputs if self.inputs or self.constituents else default.inputs
        return Features(inputs=inputs, constituents=self.constituents, pt=self.pt or default.pt)

    def table(
        self, jets: ak.Array, events: ak.Array | None = None, event_index: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The inputs of a flat list of jets.

        Args:
            jets: ``n * Jet``, without missing values.
            events: Events that carry the event-level inputs; needed only if there are some.
            event_index: Event of each jet, int of shape (n,).

        Returns:
            Untransformed features, float32 of shape (n, :attr:`width`), and detector-level p_T [GeV], float32 of
            shape (n,).

        Raises:
            MissingFieldError: A field, the constituents or the events are missing.
            NonFiniteFeatureError: A value is NaN or infinite, a p_T is not positive, or a jet has no constituents.
            SchemaError: Constituents of Delphes jets are asked for in events with several jets, or constituents do not
                lie around their jet.
        """
        self.require(jets, events)
        reco = _column("detector-level pt", detector_pt(jets, self.pt or "pt"))
        table = np.zeros((len(reco), self.width), dtype=np.float32)
        for column, feature in enumerate(self.inputs):
            if feature.name in self.event_names:
                assert events is not None  # noqa: S101 - required above
                assert event_index is not None  # noqa: S101
                table[:, column] = event_input(events, feature.name, event_index, jets)
            else:
                table[:, column] = feature.column(jets)
        if self.constituents is not None:
            candidates = jet_constituents(jets, events, event_index)
            # Delphes says only which constituents an event has. In PFNano, coffea deals them out, nConstituents to one
            # jet after the other, and does not look at the index of the jet that the file has for each.
            axis = _column("eta", jets.eta), _column("phi", jets.phi)
            self.constituents.fill(table[:, len(self.inputs) :], candidates, axis)

        def where(jet: int) -> str:
            if events is None or event_index is None:
                return ""
            return f" ({place(events)}, {entry(events, int(event_index[jet]))})"

        self.check(table, reco, where)
        return table, reco

    def truncated(self, jets: ak.Array, events: ak.Array | None = None, event_index: np.ndarray | None = None) -> int:
        """How many of the jets lose constituents, arguments as for :meth:`table`; zero without constituents."""
        if self.constituents is None:
            return 0
        return self.constituents.truncated(jet_constituents(jets, events, event_index))

    def with_constituents(
        self, jets: ak.Array, events: ak.Array | None = None, event_index: np.ndarray | None = None
    ) -> np.ndarray:
        """Which of the jets the file has constituents of, bool of shape (n,), arguments as for :meth:`table`.

        All without constituents among the inputs. NanoAOD v15 stores those of some fat jets only.
        """
        if self.constituents is None:
            return np.ones(len(jets), dtype=bool)
        found: np.ndarray = ak.to_numpy(ak.num(jet_constituents(jets, events, event_index)["pt"])) > 0
        return found

    def require(self, jets: ak.Array, events: ak.Array | None = None) -> None:
        """Refuse jets without the declared fields; reads nothing.

        Raises:
            MissingFieldError: A jet field is missing, or the constituents, or events that inputs come from are not
                given.
            SchemaError: What the calibrator was trained on cannot be known of corrected jets, or uncorrected p_T is
                asked of jets without ``rawFactor``.
        """
        for name in self.jet_fields if "Jet" in jets.fields else self.fields_of(jets):
            if name not in jets.fields:
                close = difflib.get_close_matches(name, jets.fields) or jets.fields[:8]
                hint = " (these are events: pass events.Jet)" if "Jet" in jets.fields else ""
                raise MissingFieldError(
                    f"jets have no field {name!r}, which this calibrator needs; they have {', '.join(close)} ...{hint}"
                )
        self._refuse_changed(jets)
        if self.event_names and events is None:
            raise MissingFieldError(
                f"this calibrator uses the event-level inputs {', '.join(self.event_names)}: "
                "call calibrator(jets, event=events)"
            )
        if self.constituents is not None:
            require_constituents(jets, events)

    def _refuse_changed(self, jets: ak.Array) -> None:
        """A p_T or mass of the file among the inputs, of which nothing is left; raw p_T may still be there."""
        for feature in self._of_jets if self.pt == "raw" else ():
            name = feature.name
            if name in ("pt", "mass") and feature.fields(jets) == (name,) and is_changed(jets, name):
                raise SchemaError(
                    f"the {name!r} of these jets was changed; this calibrator was trained on that of the file. Keep it "
                    f"before changing {name}, as jets['{name}_orig'] = jets.{name}, or calibrate the jets of the file"
                )

    def check(self, table: Readable, reco: np.ndarray, where: Callable[[int], str] = lambda _: "") -> None:
        """Refuse values that no network can use.

        Args:
            table: Features, shape (n, d).
            reco: Detector-level p_T [GeV], shape (n,).
            where: Says where in the files a jet is.

        Raises:
            NonFiniteFeatureError: A value is NaN, infinite or outside the domain of its transform; names the
                feature and counts the jets.
        """
        domains = {"log": 0.0, "log1p": -1.0}
        columns = [("detector-level pt", "log", reco)]
        columns += [(f.name, f.transform, table[:, i]) for i, f in enumerate(self.inputs)]
        for name, transform, values in columns:
            above = domains.get(transform, -np.inf)
            bad = ~(np.isfinite(values) & (values > above))
            if bad.any():
                first = int(np.argmax(bad))
                limit = f" or not above {above:g} (transform {transform!r})" if transform in domains else ""
                raise NonFiniteFeatureError(
                    f"{bad.sum()} of {len(values)} jets have a {name!r} that is NaN, infinite{limit}, "
                    f"first at jet {first}{where(first)}; select jets without them, or repair them, before calibrating"
                )
        if self.constituents is not None:
            self.constituents.check(table[:, len(self.inputs) :])


def _column(name: str, values: Any) -> np.ndarray:
    return np.ascontiguousarray(numbers(name, values, np.float32))


def _defaults(schema: Schema) -> Features:
    found = tuple(Feature.model_validate(each._asdict()) for each in schema.inputs)
    return Features(inputs=found, pt=schema.pt)


# Of all jet collections but FatJet, and of FatJet, by schema.
DEFAULT_FEATURES = {name: _defaults(schema) for name, schema in SCHEMAS.items()}
FATJET_FEATURES = {name: DEFAULT_FEATURES[name].selected(schema.fatjet_inputs) for name, schema in SCHEMAS.items()}
