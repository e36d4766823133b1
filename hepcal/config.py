"""The configuration file of ``hepcal train``: small, checked, unknown keys refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from hepcal.errors import PairsError, TrainingError
from hepcal.events.features import Features
from hepcal.events.schemas import SCHEMAS
from hepcal.methods.base import Method
from hepcal.methods.registry import EXISTING, calibrator_of, known_names, learner_of, method_of, offered
from hepcal.storage.documents import parse_yaml
from hepcal.storage.outputs import read_bytes
from hepcal.tables.pairs import JetPairs

__all__ = ["TrainingConfig"]


class TrainingConfig(BaseModel):
    """What ``hepcal train --config`` reads.

    Attributes:
        method: Name of the method; the command line's if not given.
        settings: Its settings, e.g. ``{prior_width: 0.1, draws: 50}``.
        features: Inputs; the schema's default if not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = "bnn"
    settings: dict[str, Any] = {}
    features: Features | None = None

    # Where it was read from, for messages.
    _path: str = PrivateAttr("")

    @classmethod
    def read(cls, path: Path | None, method: str | None = None) -> TrainingConfig:
        """From a YAML file, or the defaults of a method without one.

        Raises:
            TrainingError: The file cannot be read, holds an unknown key or method, or one that needs data, too.
        """
        if path is None:
            return cls(method=method or "bnn")
        try:
            content = parse_yaml(read_bytes(path))
            if not isinstance(content, dict | None):
                raise ValueError(f"it holds a {type(content).__name__}, not keys and values")
            config = cls.model_validate({**({"method": method} if method else {}), **(content or {})})
        except (OSError, ValueError, TypeError) as error:  # ValidationError is a ValueError
            raise TrainingError(f"{path} is not a training configuration: {error}") from error
        if config.method not in known_names():
            raise TrainingError(f"{path}: unknown method {config.method!r}; known are {', '.join(offered())}")
        if config.method in EXISTING:
            raise TrainingError(
                f"{path}: {config.method!r} exists and is not trained; hepcal.Identity() and hepcal.Column(...) are "
                "calibrators"
            )
        if method_of(config.method).needs_data:
            raise TrainingError(
                f"{path}: the method {config.method!r} maps simulation to data, which a configuration cannot name: "
                "train it in Python with hepcal.train(pairs, method, data=pt)"
            )
        if method and config.method != method:
            raise TrainingError(f"{path} asks for the method {config.method!r}, the command line for {method!r}")
        config._path = str(path)
        return config

    def require(self, table: JetPairs) -> None:
        """Refuse a saved table that was made with other features than the configuration asks for.

        Raises:
            TrainingError: They differ.
        """
        wanted, found = self.features, table.spec
        # With constituents, no inputs are a choice; without, they stand for the defaults.
        if wanted and (
            (wanted.inputs != found.inputs and bool(wanted.inputs or wanted.constituents))
            or wanted.constituents not in (None, found.constituents)
            or wanted.pt not in (None, found.pt)
        ):
            raise TrainingError(
                f"the configuration asks for the features {wanted.listed} "
                f"(p_T: {wanted.pt or 'any'}), but the table was made with {found.listed} "
                f"(p_T: {found.pt}): leave them out, or make the table anew from the fileset"
            )

    def build(self) -> Method:
        """The method with its settings.

        Raises:
            TrainingError: A setting is unknown or out of range.
            HepcalError: The method is of another distribution, and broken.
        """
        calibrator_of(self.method), learner_of(self.method)
        try:
            return method_of(self.method).model_validate(self.settings)
        except ValidationError as error:
            where = f"{self._path}: " if self._path else ""
            raise TrainingError(f"{where}settings of {self.method!r}: {_told(error, self.method)}") from error

    def require_inputs(self, method: Method, jets: str = "Jet") -> None:
        """Refuse a method that needs other inputs than will be read: those chosen, or the defaults of any layout.

        Raises:
            TrainingError: It asks for one that they lack.
        """
        faults = []
        for schema in SCHEMAS:
            try:
                method.keeps((self.features or Features()).resolved(schema, jets))
            except PairsError as error:
                faults.append(f"{error} ({schema})")
        if len(faults) == len(SCHEMAS):
            raise TrainingError(f"the method {method.name!r} cannot learn from these features: {'; '.join(faults)}")


def _told(error: ValidationError, method: str) -> str:
    """What is wrong with the settings of a method, in one line."""
    faults = []
    for each in error.errors():
        name, found = ".".join(str(part) for part in each["loc"]), each.get("input")
        text = f"{name}: {each['msg']}" if name else each["msg"]
        if each["type"] == "extra_forbidden":
            text = f"{name}: there is no such setting, known are {', '.join(method_of(method).model_fields)}"
        elif isinstance(found, str | int | float):
            text += f", found {found!r}"
            if isinstance(found, str) and re.fullmatch(r"\d+(\.\d*)?[eE]\d+", found):
                text += f" (YAML takes it for a text: write {float(found):.0f})"
        faults.append(text)
    return "; ".join(faults)
