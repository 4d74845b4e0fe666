"""The second opinion: does a statement stand in the old version where its author would have put it?

It shares no code with `propagation` and knows nothing of how a place was found. It reads both versions,
follows what happens before and after the statement, and confirms the place, doubts it or contradicts it.
"""

from flor_dagster.placecheck.checking import check_place
from flor_dagster.placecheck.model import PlaceVerdict, Spot
from flor_dagster.placecheck.program import Sources

__all__ = ["PlaceVerdict", "Sources", "Spot", "check_place"]
