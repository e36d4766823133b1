"""Predictive distributions of many jets, one per weight draw: densities, cdfs, moments, random draws. numpy only."""

from hepcal.distributions.base import Distribution, Jets
from hepcal.distributions.blend import Blend
from hepcal.distributions.crystal_ball import CrystalBall
from hepcal.distributions.mixture import NormalMixture

__all__ = ["Blend", "CrystalBall", "Distribution", "Jets", "NormalMixture"]
