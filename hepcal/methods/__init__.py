"""Methods of calibration, one folder each, and what they share: settings, calibrators, their files, and their training.

Which methods there are is in :mod:`hepcal.methods.registry`.
"""
