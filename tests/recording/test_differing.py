"""Two states that differ are told apart by the way to the place and both values; what no replay can give again is recognised."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import numpy as np
import pytest

from flor_dagster.recording.differing import Moments, Recogniser, differences, hashes
from flor_dagster.recording.modules import clock_facts
from tests.recording.state_lab import capture


class Thing:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def told(old: Any, new: Any) -> list[str]:
    one, other = capture(it=old), capture(it=new)
    found = differences(
        (one.nodes, one.roots["name:it"], lambda digest: one.buffers[digest].data),
        (other.nodes, other.roots["name:it"], lambda digest: other.buffers[digest].data),
    )
    return [f"it{difference.path} {difference.sentence}" for difference in found]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (Thing(a=Thing(b=[1, 2.5])), Thing(a=Thing(b=[1, 3.5])), ["it.a.b[1] was 2.5 and is 3.5"]),
        ({"lr": 0.1, "x": [1]}, {"lr": 0.2, "x": [1]}, ["it['lr'] was 0.1 and is 0.2"]),
        (Thing(a=1, b=2), Thing(a=1), ["it lacks b"]),
        ([1, 2], [1, 2, 3], ["it was a list of 2 and is one of 3"]),
        ([1], ["1"], ["it[0] was 1 and is '1'"]),
        (np.array([1.0, 2.0]), np.array([1.0, 4.0]), ["it was 2.0 and is 4.0 at its item 1"]),
        (Thing(a=np.float64(1)), Thing(a=np.float64(2)), ["it.a was 1.0 and is 2.0"]),
        (Thing(a={1: Thing(b=1)}), Thing(a={1: None}), [f"it.a[1] was a {__name__}.Thing and is None"]),
    ],
)
def test_a_difference_names_its_path_and_both_values(old: Any, new: Any, said: list[str]) -> None:
    assert told(old, new) == said
    assert told(old, old) == told(new, new) == []


def test_an_alias_that_is_one_no_more_is_a_difference() -> None:
    shared: list[int] = []
    assert told([shared, shared], [[], []]) == ["it[1] is another object of those that are equal"]


NOW = 1_790_000_000.5
LOCAL = dt.datetime.fromtimestamp(NOW - 50)  # noqa: DTZ006 - as programs do
THEN = Moments(NOW - 100, NOW, 5000.25)


@pytest.mark.parametrize(
    "value",
    [
        NOW - 50, int(NOW) - 50, (NOW - 50) * 1e3, int((NOW - 50) * 1e9), 5050.125, int(5050.125e9),
        LOCAL, dt.datetime.fromtimestamp(NOW - 50, dt.UTC),
        LOCAL.strftime("%Y-%m-%d_%H-%M-%S"), LOCAL.strftime("%H-%M-%S-%f"),
        dt.datetime.fromtimestamp(NOW - 50, dt.UTC).isoformat(), f"out/run_{int(NOW) - 50}/log",
    ],
)  # fmt: skip
def test_a_value_near_the_clock_is_recognised_in_any_usual_form(value: Any) -> None:
    assert THEN.has(value)


@pytest.mark.parametrize(
    "value", [NOW - 500, 4000.5, 5050.0, 3, 0.5, True, "12", "run 17", "2020-01-01 00:00:00", None]
)
def test_another_value_is_not(value: Any) -> None:
    assert not THEN.has(value)


def kinds(old: Any, new: Any, *, unseeded: bool = False) -> list[str]:
    now = time.time()
    recogniser = Recogniser({"began": now - 1000, "ended": now - 900, "monotonic": None}, unseeded=unseeded)
    one, other = capture(it=old), capture(it=new)
    graphs = [(state.nodes, state.roots["name:it"], lambda _: None) for state in (one, other)]
    return [recogniser.kind(difference) for difference in differences(graphs[0], graphs[1])]


def test_a_time_is_left_out_where_each_is_near_its_own_clock_alone() -> None:
    now = time.time()
    assert kinds(Thing(t=now - 950), Thing(t=now)) == ["the clock"]
    assert kinds(Thing(t=now - 950), Thing(t=0.5)) == [""]
    assert kinds(Thing(t=now), Thing(t=now)) == []
    assert kinds(Thing(t=now - 5000), Thing(t=now)) == [""]
    assert kinds([str(now - 950)], ["x" + str(now)]) == [""]


def test_a_hash_is_left_out_where_the_run_drew_its_seed_and_hash_gave_it_here() -> None:
    hashes.add(hash("config"))
    assert kinds(Thing(h=123456789012345), Thing(h=hash("config")), unseeded=True) == ["hash()"]
    assert kinds(Thing(h=123456789012345), Thing(h=hash("config"))) == [""]
    assert kinds(Thing(h=123456789012345), Thing(h=99), unseeded=True) == [""]


def test_an_address_in_a_description_is_left_out() -> None:
    assert kinds("<Net at 0x7f01>", "<Net at 0x7f02>") == ["an address"]
    assert kinds("<Net at 0x7f01>", "<Not at 0x7f02>") == [""]


def test_a_process_knows_its_own_clock() -> None:
    facts = clock_facts()
    own = Moments(facts["began"], time.time(), facts["monotonic"])
    assert own.has(time.time())
    assert own.has(time.perf_counter() + 1e-7)
    assert not own.has(facts["began"] - 60)
