"""The log views of several ranks as one frame, told apart by a column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    joined.attrs["places"] = {k: v for f in frames.values() for k, v in f.attrs.get("places", {}).items()}
    joined.attrs["definitions"] = {
        k: v for f in frames.values() for k, v in f.attrs.get("definitions", {}).items()
    }
    counts = [f.attrs.get("several", {}) for f in frames.values()]
    joined.attrs["several"] = {name: sum(c.get(name, 0) for c in counts) for c in counts for name in c}
    joined.attrs["empty"] = _empty_everywhere([frame.attrs.get("empty", {}) for frame in frames.values()])
    return joined


def _empty_everywhere(reasons: Sequence[dict[Any, str]]) -> dict[Any, str]:
    """What no rank has, with the first rank's reason."""
    if not reasons:
        return {}
    return {
        place: reason
        for place, reason in reasons[0].items()
        if all(place in others for others in reasons[1:])
    }
