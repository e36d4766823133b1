"""Calibrators: one module per method, behind one protocol."""
