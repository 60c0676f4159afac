"""Methods at the representation that the tasks share."""

from mtrl.aggregation.representation import graddrop, great, mgda_ub
from mtrl.aggregation.representation.representation_aggregator import RepresentationAggregator

__all__ = ["RepresentationAggregator", "graddrop", "great", "mgda_ub"]
