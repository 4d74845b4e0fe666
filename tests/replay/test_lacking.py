"""What the journal says a checkpoint lacks is what its manifest says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.recording.checkpoints import Manifest
from flor_dagster.recording.lacking import lacks_of
from flor_dagster.replay.holding import Reads, held_by, said_by

NAMES = ("a", "b", "log")
references = st.integers(0, 7)
objects = st.dictionaries(st.sampled_from(NAMES), references, max_size=3).map(
    lambda of: ["object", "C", None, of, None]
)
nodes = st.lists(
    st.one_of(objects, st.just(["opaque", "Logger"]), st.lists(references, max_size=2).map(lambda of: ["list", of])),
    min_size=8, max_size=8,
)  # fmt: skip
roots = st.dictionaries(st.sampled_from(["name:a", "object:b", "__main__:log"]), references)
chains = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple)


@given(nodes, roots, st.sets(st.sampled_from(["name:a", "name:b"])), st.frozensets(chains, max_size=4))
def test_the_journal_and_the_manifest_say_the_same(
    graph: list[Any], named: dict[str, int], unavailable: set[str], read: frozenset[tuple[str, ...]]
) -> None:
    manifest = Manifest("run", "1", graph, named, {}, dict.fromkeys(unavailable, "why"), (), {}, {})
    said = lacks_of(manifest)
    if said is None:
        return
    attributes = frozenset(name for chain in read for name in chain[1:])
    for reads in (Reads(frozenset(c[0] for c in read), read), Reads(frozenset(), read, False, attributes)):
        assert said_by(said).missing_for(reads) == held_by(manifest, read).missing_for(reads)


def test_objects_that_refer_to_one_another_are_left_to_the_manifest() -> None:
    graph = [["object", "C", None, {"a": 0, "log": 1}, None], ["opaque", "Logger"]]
    assert lacks_of(Manifest("run", "1", graph, {"name:a": 0}, {}, {}, (), {}, {})) is None
    assert lacks_of(Manifest("run", "1", graph, {"name:a": 1}, {}, {}, (), {}, {})) == (
        [], [["a"]], ["log"],
    )  # fmt: skip


def test_what_a_container_holds_by_its_place_is_lacking_under_its_name_and_in_methods() -> None:
    graph = [
        ["object", "W", None, {"files": 1}, None],
        ["list", [2]],
        ["opaque", "_io.TextIOWrapper"],
        ["dict", [[["s", "k"], 1]]],
    ]
    manifest = Manifest("run", "1", graph, {"name:w": 0, "name:d": 3}, {}, {}, (), {}, {})
    assert lacks_of(manifest) == ([], [["d"], ["w", "files"]], ["files"])
    for held in (held_by(manifest, frozenset({("d",), ("w", "size")})), said_by(([], [], ["files"]))):
        assert held.missing_for(Reads(attributes=frozenset({"files", "tell"}))) == "….files"
