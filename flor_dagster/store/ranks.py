"""The log views of several ranks as one frame, told apart by a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd


def of_ranks(frames: Mapping[int, pd.DataFrame], order: Sequence[str]) -> pd.DataFrame:
    """One frame of all: run by run in the given order, and in a run rank by rank.

    Args:
        frames: rank to its log view.
        order: the keys of the runs.
    """
    import pandas as pd

    for number, frame in frames.items():
        at = 1 + ("run" in frame.columns and list(frame.columns).index("run"))
        frame.insert(at, "rank", pd.Series(number, index=frame.index, dtype="Int64"))
    filled = [frame for frame in frames.values() if len(frame)] or list(frames.values())[:1]
    # A column that one rank lacks keeps its type: what is absent stays absent.
    joined = pd.concat(filled, ignore_index=True) if len(filled) > 1 else filled[0]
    columns = list(dict.fromkeys(name for frame in filled for name in frame.columns))
    place = {key: number for number, key in enumerate(order)}
    by_run = joined["run"].map(place).to_numpy()
    joined = joined.iloc[np.argsort(by_run, kind="stable")].reset_index(drop=True)[columns]
    attributes = [frame.attrs for frame in frames.values()]
    joined.attrs["columns"] = {k: v for one in attributes for k, v in one.get("columns", {}).items()}
    joined.attrs["places"] = _together([one.get("places", {}) for one in attributes])
    joined.attrs["definitions"] = {k: v for one in attributes for k, v in one.get("definitions", {}).items()}
    for what in ("several", "elsewhere"):
        counts = [one.get(what, {}) for one in attributes]
        joined.attrs[what] = {name: sum(c.get(name, 0) for c in counts) for c in counts for name in c}
    joined.attrs["empty"] = _empty_everywhere([one.get("empty", {}) for one in attributes])
    return joined


_Said: TypeAlias = "dict[str, dict[str, str]]"


def _together(several: Sequence[_Said]) -> _Said:
    found: _Said = {}
    for one in several:
        for run, said in one.items():
            found.setdefault(run, {}).update(said)
    return found


def _empty_everywhere(reasons: Sequence[_Said]) -> _Said:
    """What no rank has, with the first rank's reason."""
    found: _Said = {}
    for run, said in reasons[0].items() if reasons else ():
        rest = {
            name: why
            for name, why in said.items()
            if all(name in others.get(run, {}) for others in reasons[1:])
        }
        if rest:
            found[run] = rest
    return found
