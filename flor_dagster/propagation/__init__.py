"""Put new statements into old versions: pure functions on source text."""

from flor_dagster.propagation.effects import Effects, classify_effects
from flor_dagster.propagation.engine import PROPAGATOR_VERSION, counterparts, propagate
from flor_dagster.propagation.model import Placement, Propagated, Refusal, RefusalKind, Statement
from flor_dagster.propagation.statements import find_statements

__all__ = [
    "PROPAGATOR_VERSION",
    "Effects",
    "Placement",
    "Propagated",
    "Refusal",
    "RefusalKind",
    "Statement",
    "classify_effects",
    "counterparts",
    "find_statements",
    "propagate",
]
