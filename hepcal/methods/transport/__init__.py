"""Optimal transport of simulation onto data."""
