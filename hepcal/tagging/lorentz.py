"""Combination layer and Lorentz layer on constituents (arXiv:1707.08966), feature-major.

The combination layer makes four-vectors: the sum of all constituents, trainable linear combinations of them, and the
hardest constituents as they are. The Lorentz layer turns each into numbers: its invariant mass, its p_T, a trainable
weighted sum of the energies, a trainable weighted sum of its Minkowski distances to the constituents, and the smallest
weighted distance to a hard constituent. Masses and distances are Lorentz scalars. All are compressed to logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["LorentzLayout", "PreparedJets", "mass_squared"]

# Momenta in units in which those of hard constituents are of order one; what is compressed is linear below, and a
# logarithm above, in GeV and GeV².
MOMENTUM_UNIT = 100.0
ENERGY_UNIT = 10.0
MASS_SQUARED_UNIT = 10.0
PT_FLOOR = 1.0
# Typical start of trainable weights.
START_WIDTH = 0.2
# Factors on distances are at most e to this power, so that a wide posterior does not leave float32.
MAX_LOG_FACTOR = 5.0
METRIC = (1.0, -1.0, -1.0, -1.0)


@dataclass(frozen=True, slots=True)
class PreparedJets:
    """A block of b jets, and all of it that does not depend on weights.

    Attributes:
        full: E, px, py, pz, m² and occupancy (0 or 1) of P constituents, float32 of shape (P, 6, b), in units of
            MOMENTUM_UNIT.
        nearby: m² of the leading constituents, shape (leading, b).
        empty: Which of their slots are empty, bool of the same shape: such a slot is never the nearest.
    """

    full: torch.Tensor
    nearby: torch.Tensor
    empty: torch.Tensor

    @property
    def momenta(self) -> torch.Tensor:
        """Four-vectors (P, 4, b), a view."""
        return self.full[:, :4]


@dataclass(frozen=True, slots=True)
class LorentzLayout:
    """Where the weights of both layers sit in a flat vector, and what they make of jets.

    Attributes:
        constituents: Slots that are used, P.
        leading: Hardest constituents that are vectors of their own.
        combinations: Trainable linear combinations.
    """

    constituents: int
    leading: int
    combinations: int

    @property
    def made(self) -> int:
        """Vectors with a mass: the sum and the combinations."""
        return 1 + self.combinations

    @property
    def vectors(self) -> int:
        """All vectors: those that are made, and the leading constituents."""
        return self.made + self.leading

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Blocks of weights: combinations, sums of energies, sums of distances, logarithms of factors on distances."""
        used = self.constituents
        return (self.combinations, used), (self.vectors, used), (self.vectors, used), (self.made, self.leading)

    @property
    def count(self) -> int:
        """Number of weights."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def outputs(self) -> int:
        """Numbers per jet."""
        return 2 * self.made + 3 * self.vectors

    def blocks(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Views of a flat vector (count,) as :attr:`shapes`."""
        parts = torch.split(flat, [rows * columns for rows, columns in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def start(self, generator: torch.Generator) -> torch.Tensor:
        """Random starting point; all factors on distances are one."""
        flat = torch.randn(self.count, generator=generator, dtype=torch.float32, device="cpu") * START_WIDTH
        self.blocks(flat)[-1].zero_()
        return flat

    def prepare(self, block: torch.Tensor) -> PreparedJets:
        """Jets (4 P, b) in GeV, the components of slot 1 first, as the layer wants them."""
        momenta = (block / MOMENTUM_UNIT).view(self.constituents, 4, -1)
        occupied = (momenta[:, 0] > 0).to(block.dtype)
        masses = mass_squared(momenta)
        full = torch.cat([momenta, masses.unsqueeze(1), occupied.unsqueeze(1)], dim=1)
        return PreparedJets(full, masses[: self.leading], occupied[: self.leading] == 0)

    def forward(self, jets: PreparedJets, flat: torch.Tensor) -> torch.Tensor:
        """Compressed numbers (outputs, b) of jets under weights (count,)."""
        _, energy_weights, *_ = self.blocks(flat)
        vectors, masses, distances, nearest = self.invariants(jets, flat)
        pt = torch.sqrt(vectors[:, 1:3].square().sum(1) + (PT_FLOOR / MOMENTUM_UNIT) ** 2)
        energies = energy_weights @ jets.full[:, 0]
        mass_unit = MASS_SQUARED_UNIT / MOMENTUM_UNIT**2
        scalars = torch.cat([masses[: self.made], distances, nearest])
        return torch.cat(
            [compressed(scalars / mass_unit), compressed(energies * (MOMENTUM_UNIT / ENERGY_UNIT)), torch.log(pt)]
        )

    def invariants(
        self, jets: PreparedJets, flat: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the layer makes of jets, in units of MOMENTUM_UNIT: four-vectors and Lorentz scalars.

        Returns:
            Vectors (vectors, 4, b); their masses squared (vectors, b); their weighted sums of distances squared
            (k - k_j)² to the constituents (vectors, b); the smallest weighted distances squared of the made vectors to
            a leading constituent (made, b).
        """
        combine, _, distance_weights, factors = self.blocks(flat)
        momenta, b = jets.momenta, jets.full.shape[-1]
        combined = (combine @ momenta.reshape(self.constituents, -1)).view(-1, 4, b)
        vectors = torch.cat([momenta.sum(0, keepdim=True), combined, momenta[: self.leading]])
        masses = mass_squared(vectors)
        # sum_j w_j (k - k_j)² over occupied slots = k² sum_j w_j + sum_j w_j m_j² - 2 k sum_j w_j k_j
        sums = (distance_weights @ jets.full.view(self.constituents, -1)).view(-1, 6, b)
        metric = momenta.new_tensor(METRIC).view(1, 4, 1)
        distances = masses * sums[:, 5] + sums[:, 4] - 2 * (vectors * sums[:, :4] * metric).sum(1)
        # The same expanded, in place: no tensor of all pairs is made more than once.
        nearest = jets.nearby + masses[: self.made].unsqueeze(1)
        ours, theirs = vectors[: self.made].unbind(1), momenta[: self.leading].unbind(1)
        for our, their, sign in zip(ours, theirs, METRIC, strict=True):
            nearest.addcmul_(our.unsqueeze(1), their, value=-2 * sign)
        bounded = factors.clamp(-MAX_LOG_FACTOR, MAX_LOG_FACTOR)
        weighted = (nearest * torch.exp(bounded).unsqueeze(-1)).masked_fill(jets.empty, torch.inf)
        return vectors, masses, distances, weighted.amin(1)


def mass_squared(vectors: torch.Tensor) -> torch.Tensor:
    """E² - px² - py² - pz² of four-vectors (m, 4, b), shape (m, b)."""
    energy, x, y, z = vectors.unbind(1)
    return energy * energy - x * x - y * y - z * z


def compressed(values: torch.Tensor) -> torch.Tensor:
    """sign(x) ln(1 + |x|): a logarithm that masses of spacelike combinations have, too; ten times faster than asinh."""
    return torch.copysign(torch.log1p(values.abs()), values)
