"""Coffea processors: short, and made of library calls."""

from hepcal.processors.dijet import DijetProcessor
from hepcal.processors.response import ResponseProcessor
from hepcal.processors.survey import Survey, SurveyProcessor

from hepcal.tables.from_events import PairsProcessor

__all__ = ["DijetProcessor", "PairsProcessor", "ResponseProcessor", "Survey", "SurveyProcessor"]
