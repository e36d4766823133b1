"""The Gaussian Ansatz: a maximum-likelihood calibration learned with the Donsker-Varadhan loss."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from hepcal.errors import CalibratorFileError, HepcalError
from hepcal.methods.ansatz.network import AnsatzLayout
from hepcal.methods.base import SIGMA_STOCH, Method, Positive, PositiveFloat
from hepcal.methods.calibrator import Calibrator
from hepcal.methods.card import Quantity
from hepcal.networks.inference import WeightDraws

__all__ = ["AnsatzCalibrator", "GaussianAnsatz", "Start"]

Start = Literal["inversion", "mse", "random"]
Count = Annotated[int, Field(ge=0)]
# Of the product of the marginals per update: with fewer, ln <e^T> of a batch is biased, and B with it.
LEAST_PAIRS = 1000


class GaussianAnsatz(Method):
    """Maximum likelihood with all features, by the Donsker-Varadhan loss.

    T(x, z) = A(x) + (z - B(x))² C(x, z) / 2 is trained to the mutual information of inputs x and truth z. ``pt_calib``
    is B(x): the truth p_T of largest likelihood p(x | z), which does not depend on the truth spectrum of the training
    (arXiv:2205.05084, Eqs. 12, 14, 35, 36; arXiv:2205.03413). ``pt_calib_sigma_stoch`` is (-C(x, B(x)))^(-1/2), Eq. 37,
    from the curvature of the likelihood. A maximum of the likelihood is not unbiased in
    general: where the width of the response grows with truth it lies a little low.

    The training starts from numerical inversion, goes on with Adam on batches and ends with L-BFGS on all jets.

    Attributes:
        hidden: Units of the hidden layers.
        networks: ``dense``: B and the argument of C are straight lines plus dense networks; ``affine``: straight lines
            in the inputs. A is a dense network in any case.
        start: ``inversion``: B from the inverse of a low-order fit of reco against truth. ``mse``: B from a linear
            regression of truth on the inputs, which depends on the truth spectrum; ``random``: B = 0. The last two are
            there to show that the training finds the answer from elsewhere, and what is left if it is short.
        curvature: ``negative``: C = -softplus; ``free``: C of either sign, so that B may be anything.
        cells: Truth values that each jet is paired with for the product of the marginals, one of each cell of the truth
            range (:meth:`hepcal.methods.ansatz.network.Pairing.draw`).
        batch: Jets per update of Adam.
        epochs: Passes of Adam over the jets.
        learning_rate: Its step size at the start; falls to zero as a cosine.
        clip: Largest norm of a gradient.
        iterations: Of L-BFGS, at most. It ends before if the held-out value falls, or if nothing is gained.
        l2: Strength of the squared parameters in its loss.

    Raises:
        pydantic.ValidationError: A setting is unknown or out of range, or batch times cells is below 1000.
    """

    name: ClassVar[str] = "gaussian_ansatz"
    learner: ClassVar[str] = "hepcal.methods.ansatz.learning:learn"
    calibrator: ClassVar[str] = "hepcal.methods.ansatz.calibrator:AnsatzCalibrator"
    follows_prior: ClassVar[bool] = False
    quantity: ClassVar[Quantity] = "mode"
    uncertainties: ClassVar[tuple[str, ...]] = (SIGMA_STOCH,)

    hidden: tuple[Positive, ...] = (32, 32, 32)
    networks: Literal["affine", "dense"] = "dense"
    start: Start = "inversion"
    curvature: Literal["negative", "free"] = "negative"
    cells: Positive = 8
    batch: Positive = 1000
    epochs: Count = 5
    learning_rate: PositiveFloat = 1e-3
    clip: PositiveFloat = 1.0
    iterations: Count = 100
    l2: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6

    @model_validator(mode="after")
    def _enough_pairs(self) -> GaussianAnsatz:
        if self.batch * self.cells < LEAST_PAIRS:
            raise ValueError(
                f"batch x cells = {self.batch} x {self.cells} pairs per update: at least {LEAST_PAIRS} are needed"
            )
        return self

    def layout(self, inputs: int) -> AnsatzLayout:
        """The networks for so many inputs, reco p_T included."""
        return AnsatzLayout(inputs, self.hidden, self.networks == "affine", self.curvature == "negative")


class AnsatzCalibrator(Calibrator):
    """A trained Gaussian Ansatz. Jets whose B(x) lies outside the truth range of the training are out of range."""

    method: ClassVar[type[GaussianAnsatz]] = GaussianAnsatz
    sigmas = (SIGMA_STOCH,)

    def _prepare(self) -> None:
        settings = self.method.model_validate(self.card.settings)
        inputs = len(self.inputs.transforms)
        self._ansatz_layout = settings.layout(inputs)
        flat = self.require("ansatz", (self._ansatz_layout.count,))
        mean, scale = self.require("ansatz_mean", (inputs,)), self.require("ansatz_scale", (inputs,), positive=True)
        self._mean, self._scale = mean[:, None].to(self.device), scale[:, None].to(self.device)
        low, high = self.require("truth_range", (2,)).tolist()
        if not low < high:
            raise CalibratorFileError(f"the truth range of the training is empty: {low:g} to {high:g} GeV")
        self._truth_range = low, high
        parts = self._ansatz_layout.split(flat)
        # A says nothing of the calibrated value: it is kept in the file for people who want T.
        self._networks = {
            name: WeightDraws(layout, parts[name][None], self.device)
            for name, layout in self._ansatz_layout.parts.items()
            if name != "a"
        }

    def _evaluate(self, inputs: torch.Tensor, pt: np.ndarray, *, replicas: bool) -> dict[str, np.ndarray]:  # noqa: ARG002
        reco = torch.from_numpy(pt).float()[None]
        x = (torch.cat([reco, inputs[1:]]).to(self.device) - self._mean) / self._scale
        b = self._value("b", x)
        c = self._value("c", torch.cat([x, b]))
        if not (torch.isfinite(b).all() and torch.isfinite(c).all()):
            raise HepcalError(
                "a prediction is not a finite number: a jet has inputs many orders of magnitude outside the training "
                "range. Select the jets that you need, or look for absurd features (pt_calib_in_range cannot say)"
            )
        curvature = c[0].double()
        if self._ansatz_layout.constrained:
            curvature = -torch.nn.functional.softplus(curvature)
        # A curvature that is not negative is no maximum and has no width: NaN, and out of range.
        width = torch.where(curvature < 0, -1 / curvature, torch.nan).sqrt().cpu().numpy()
        pt_calib = self.target.location + self.target.scale * b[0].double().cpu().numpy()
        low, high = self._truth_range
        return {
            "pt_calib": pt_calib,
            SIGMA_STOCH: self.target.scale * width,
            "pt_calib_in_range": (
                self.inputs.inside(inputs).numpy() & (pt_calib >= low) & (pt_calib <= high) & np.isfinite(width)
            ),
        }

    def _value(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """B, or the argument of C, of one block of inputs (d, jets); shape (1, jets)."""
        found = self._networks[f"{name}_line"](x)[0].clone()
        return found if self._ansatz_layout.affine else found + self._networks[f"{name}_bend"](x)[0]
