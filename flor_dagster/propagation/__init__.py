"""Put new statements into old versions: pure functions on source text."""

from flor_dagster.propagation.counterparts import counterparts
from flor_dagster.propagation.effects import Effects, classify_effects, is_plain
from flor_dagster.propagation.engine import PROPAGATOR_VERSION, propagate
from flor_dagster.propagation.history import Chain, History, HistoryOfTrees
from flor_dagster.propagation.model import Placement, Propagated, Refusal, RefusalKind, Statement
from flor_dagster.propagation.project import (
    PatchedFile,
    PropagatedTree,
    TreePlacement,
    TreeRefusal,
    propagate_tree,
)
from flor_dagster.propagation.statements import find_statements
from flor_dagster.propagation.trees import SourceTree

__all__ = [
    "PROPAGATOR_VERSION",
    "Chain",
    "Effects",
    "History",
    "HistoryOfTrees",
    "PatchedFile",
    "Placement",
    "Propagated",
    "PropagatedTree",
    "Refusal",
    "RefusalKind",
    "SourceTree",
    "Statement",
    "TreePlacement",
    "TreeRefusal",
    "classify_effects",
    "counterparts",
    "find_statements",
    "is_plain",
    "propagate",
    "propagate_tree",
]
