"""Training: one function for all methods, and one learner for each kind."""

from hepcal.methods.training.trainer import train

__all__ = ["train"]
