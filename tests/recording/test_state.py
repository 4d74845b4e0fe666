"""An end state is put back in place, with every alias; what can't be captured is named."""

from __future__ import annotations

import array
import collections
import concurrent.futures
import dataclasses
import enum
import functools
import inspect
import io
import itertools
import multiprocessing
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import types
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.errors import CheckpointError
from tests.recording.state_lab import Kept, capture, there_and_back, why_not


class Node:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("__weakref__", "a", "b")


class Items(list):
    pass


class Table(dict):
    def items(self):  # says something else of its content
        return [("a", "lie")]


@dataclasses.dataclass(frozen=True)
class Frozen:
    xs: list[int]


class Phase(enum.Enum):
    WARM = 1
    COLD = 2


class Odd:
    """Attributes that are made up when asked for."""

    def __init__(self) -> None:
        self.real = [1]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"made up {name}"


class Counts:
    seen: list[int] = []  # noqa: RUF012
    total = 0

    def see(self, x: int, memory: list[int] = []) -> None:  # noqa: B006 - what the test is about
        memory.append(x)
        type(self).total += x
        Counts.seen.append(x)


class SubCounts(Counts):
    pass


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024
Sentinel = object()
BEST: list[int] = [0]
RESULT = 0


def remember(x: int) -> None:
    global RESULT
    RESULT = x
    BEST.append(x)


# Structures with aliases and cycles ------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()
)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """Mutable objects that refer to each other at random; the roots, and all of them."""
    makers = [list, dict, Node, Items, lambda: collections.deque(maxlen=50), collections.OrderedDict, Slotted]
    objects: list[Any] = [draw(st.sampled_from(makers))() for _ in range(draw(st.integers(1, 6)))]
    for item in objects:
        for position in range(draw(st.integers(0, 4))):
            other = draw(st.sampled_from(objects))
            value = draw(
                st.one_of(scalars, st.just(other), st.just((other, position)), st.just(Point(other, 1)))
            )
            put(item, position, value)
    return objects[: draw(st.integers(1, len(objects)))], objects


def put(item: Any, position: int, value: Any) -> None:
    if isinstance(item, dict):
        item[f"k{position}"] = value
    elif isinstance(item, list | collections.deque):
        item.append(value)
    elif isinstance(item, Slotted):
        setattr(item, "ab"[position % 2], value)
    else:
        setattr(item, f"a{position}", value)


def shake(objects: list[Any], choice: random.Random) -> None:
    for item in objects:
        if isinstance(item, dict | list | collections.deque) and choice.random() < 0.5:
            item.clear()
        for position in range(choice.randrange(3)):
            put(item, position, choice.choice([*objects, "changed", 17, [1]]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs(), st.randoms(use_true_random=False))
def test_changed_graphs_are_put_back_with_equal_digests_and_the_same_root_objects(
    built: tuple[list[Any], list[Any]], choice: random.Random
) -> None:
    roots, objects = built
    names = {f"r{i}": value for i, value in enumerate(roots)}
    kept = Kept(**names)
    shake(objects, choice)
    for name, value in kept.put_back(**names).items():
        assert value is names[name]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graphs())
def test_graphs_are_made_anew_where_nothing_of_them_is_there(built: tuple[list[Any], list[Any]]) -> None:
    names = {f"r{i}": value for i, value in enumerate(built[0])}
    values = Kept(**names).put_back()
    assert all(values[name] is not names[name] for name in names)


def test_aliases_stay_aliases() -> None:
    shared = [1]
    holder = Node(a=shared, b=(shared, {"c": shared}))
    kept = Kept(holder=holder, shared=shared)
    holder.a, holder.b = [9], ()
    shared.append(2)
    values = kept.put_back(holder=holder, shared=shared)
    assert values["shared"] is shared == [1]
    assert holder.a is shared
    assert holder.b[0] is shared
    assert holder.b[1]["c"] is shared


def test_one_live_object_never_stands_for_two_captured_ones() -> None:
    first, second, third = Node(n=1), Node(n=2), Node(n=3)
    kept = Kept(
        moved={"previous": [""], "current": [""]},
        history=[first, second, third],
        previous=second,
        current=third,
    )
    history = [first, second]
    values = kept.put_back(history=history, previous=first, current=second)
    assert [n.n for n in history] == [1, 2, 3]
    assert history[0] is first
    assert history[1] is second is values["previous"]
    assert history[2] is values["current"]


def test_an_object_that_the_loop_replaced_leaves_the_old_one_as_it_was() -> None:
    initial = Node(best=[1])
    kept = Kept(moved={"state": [""]}, state=Node(best=[5]))
    value = kept.put_back(state=initial)["state"]
    assert value is not initial
    assert value.best == [5]
    assert initial.best == [1]


def test_an_attribute_that_the_loop_replaced_leaves_the_old_object_as_it_was() -> None:
    old = [1]
    owner = Node(best=old)
    kept = Kept(moved={"owner": [".best"]}, owner=Node(best=[2]))
    kept.put_back(owner=owner)
    assert owner.best == [2]
    assert old == [1]


def test_a_tuple_in_a_cycle() -> None:
    inner: list[Any] = []
    cycle = (inner,)
    inner.append(cycle)
    value = Kept(cycle=cycle).put_back()["cycle"]
    assert value[0][0] is value


# Kinds of objects -------------------------------------------------------------------------------------------------------


def slotted() -> Slotted:
    value = Slotted()
    value.a = [1]
    return value


def change_slots(value: Slotted) -> None:
    value.a.append(2)
    value.b = 3


CASES: dict[str, tuple[Any, Any]] = {
    "slots": (slotted(), change_slots),
    "defaultdict": (collections.defaultdict(list, {"a": [1]}), lambda d: d["b"].append(1)),
    "ordered dict": (collections.OrderedDict(a=1, b=2), lambda d: d.move_to_end("a")),
    "deque": (collections.deque([1, 2], maxlen=2), lambda d: d.append(3)),
    "counter": (collections.Counter("aab"), lambda c: c.update("b")),
    "namedtuple in a list": ([Point(1, [2])], lambda v: v.__setitem__(0, Point(3, []))),
    "frozen dataclass": (Frozen([1]), lambda v: v.xs.append(2)),
    "enum member": (Node(phase=Phase.WARM), lambda v: setattr(v, "phase", Phase.COLD)),
    "list subclass": (Items([1]), lambda v: v.append(2)),
    "dict subclass": (Table(a=1), lambda v: v.__setitem__("a", 2)),
    "set": ({1, 2}, lambda v: v.add(3)),
    "bytearray": (bytearray(b"ab"), lambda v: v.extend(b"c")),
    "namespace": (types.SimpleNamespace(a=[1]), lambda v: v.a.append(2)),
    "thread local": (threading.local(), lambda v: setattr(v, "a", 1)),
    "event": (threading.Event(), lambda v: v.set()),
    "made-up attributes": (Odd(), lambda v: v.real.append(2)),
    "exception": (ValueError("a", [1]), lambda v: setattr(v, "args", ("b",))),
    "function of a library": (Node(act=np.tanh), lambda v: setattr(v, "act", np.sin)),
    "class of a library": (Node(kind=dict), lambda v: setattr(v, "kind", list)),
    "module": (Node(module=np), lambda v: setattr(v, "module", random)),
    "dtype": (Node(d=np.dtype("f4")), lambda v: setattr(v, "d", np.dtype("f8"))),
    "slice": (Node(s=slice(1, None, 2)), lambda v: setattr(v, "s", slice(3))),
    "range": (Node(s=range(1, 9, 2)), lambda v: setattr(v, "s", range(3))),
    "partial": (functools.partial(print, [1], end=""), lambda v: v.args[0].append(2)),
    "weak dictionary": (weakref.WeakKeyDictionary({Phase: [1]}), lambda v: v[Phase].append(2)),
    "random.Random": (random.Random(1), lambda v: v.gauss(0, 1)),
    "numpy generator": (np.random.default_rng(1), lambda v: v.normal(size=3)),
    "numpy philox": (np.random.Generator(np.random.Philox(1)), lambda v: v.integers(9, dtype=np.uint32)),
    "numpy RandomState": (np.random.RandomState(1), lambda v: v.randn()),
    "array": (np.arange(6.0).reshape(2, 3), lambda v: v.fill(7)),
    "fortran array": (np.asfortranarray(np.arange(6.0).reshape(2, 3)), lambda v: v.fill(7)),
    "strided array": (np.arange(12.0)[::2], lambda v: v.fill(7)),
    "structured array": (np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]), lambda v: v["b"].fill(3)),
    "object array": (np.array([[1], None, "x"], dtype=object), lambda v: v[0].append(2)),
    "complex array": (np.array([1j, np.nan]), lambda v: v.fill(0)),
    "dates": (np.array(["2026-01-01", "NaT"], dtype="M8[D]"), lambda v: v.fill("2027-01-01")),
    "bound method of another": (Node(f=[1].append), lambda v: v.f(2)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_changed_in_place_is_put_back_in_place(name: str) -> None:
    there_and_back(*CASES[name])


def test_two_lambdas_of_one_function_are_not_taken_for_each_other() -> None:
    holder = Node(act=lambda x: x + 1)
    first = holder.act
    kept = Kept(holder=holder)
    holder.act = lambda x: x - 1
    kept.put_back(holder=holder)
    assert holder.act(1) == 2
    holder.act = first
    kept.put_back(holder=holder)
    assert holder.act is first


def test_a_set_whose_order_cannot_be_put_back_is_refused() -> None:
    numbers = set(range(2000))
    for n in range(1990):
        numbers.discard(n)
    kept = Kept(numbers=numbers)
    order = list(numbers)
    try:
        value = kept.put_back()["numbers"]
    except CheckpointError:
        return
    assert list(value) == order


def test_closures_defaults_and_function_attributes_are_state() -> None:
    def make() -> Any:
        cell = [0]
        count = 0

        def step(x: int, memory: list[int] = []) -> int:  # noqa: B006
            nonlocal count
            count += x
            cell.append(x)
            memory.append(x)
            step.calls = count
            return count

        return step

    step = make()
    step(1)
    kept = Kept(step=step)
    step(2)
    kept.put_back(step=step)
    assert step.calls == 1
    assert step.__defaults__ == ([1],)
    assert step(5) == 6


def test_globals_that_functions_rebind_or_fill_are_roots() -> None:
    remember(1)
    kept = Kept(remember=remember)
    assert {f"{__name__}:RESULT", f"{__name__}:BEST"} <= set(kept.roots)
    best = BEST
    remember(2)
    kept.put_back(remember=remember)
    assert RESULT == 1
    assert BEST is best
    assert 2 not in BEST


def test_class_attributes_and_method_defaults_are_state_also_of_base_classes() -> None:
    item = SubCounts()
    item.see(1)
    kept = Kept(item=item)
    item.see(5)
    kept.put_back(item=item)
    assert SubCounts.total == 1
    assert Counts.seen == [1]
    assert Counts.see.__defaults__ == ([1],)


def test_a_sentinel_stays_the_one_that_everyone_compares_with() -> None:
    def use() -> Any:
        return Sentinel

    kept = Kept(moved={"x": [""]}, x=Sentinel, use=use)
    assert kept.put_back(x=None, use=use)["x"] is Sentinel


def test_partials_and_c_objects_keep_their_aliases() -> None:
    shared = [1]
    call = functools.partial(shared.append, 3)
    add = functools.partial(map, shared)
    numbers = array.array("d", [1.0])
    kept = Kept(call=call, add=add, shared=shared, numbers=numbers)
    shared.append(2)
    numbers.append(2.0)
    values = kept.put_back(shared=shared, numbers=numbers)
    assert values["add"].args[0] is shared
    assert values["numbers"].tolist() == [1.0]
    values["call"]()
    assert shared == [1, 3]


# numpy ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 300_000])
def test_views_stay_views_whichever_is_met_first(size: int) -> None:
    base = np.arange(float(size))
    part = base[2:5]
    for names in ({"a": part, "b": base}, {"a": base, "b": part}):
        values = Kept(**names).put_back()
        new_base, new_part = (
            (values[k] for k in ("b", "a")) if names["a"] is part else (values["a"], values["b"])
        )
        new_base[2] = 99.0
        assert new_part[0] == 99.0


def test_two_overlapping_views_of_an_array_that_nothing_else_leads_to() -> None:
    base = np.arange(400_000.0)
    values = Kept(a=base[:4], b=base[2:6]).put_back()
    values["a"][3] = 99.0
    assert values["b"][1] == 99.0


def test_a_view_at_another_place_is_not_taken_for_the_captured_one() -> None:
    base = np.arange(10.0)
    kept = Kept(moved={"batch": [""]}, base=base, batch=base[5:8])
    assert kept.put_back(base=base, batch=base[2:5])["batch"].tolist() == [5.0, 6.0, 7.0]
    kept = Kept(base=base, batch=base[5:8])
    assert kept.put_back(base=base, batch=base[2:5])["batch"].tolist() == [5.0, 6.0, 7.0]
    assert base.tolist() == list(range(10))


@pytest.mark.parametrize("view", [np.s_[1:3], np.s_[::2], np.s_[:].__class__])
def test_views_of_arrays_of_objects_stay_views(view: Any) -> None:
    base = np.empty(4, dtype=object)
    base[:] = [[1], [2], [3], [4]]
    part = base.reshape(2, 2, order="F") if isinstance(view, type) else base[view]
    kept = Kept(base=base, part=part)
    anew = kept.put_back()
    assert np.shares_memory(anew["base"], anew["part"])
    assert anew["part"].tolist() == part.tolist()
    base[:] = None
    kept.put_back(base=base, part=part)
    assert base.tolist() == [[1], [2], [3], [4]]


def test_whether_an_array_may_be_written_to_is_state() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    kept = Kept(array=array)
    array.flags.writeable = True
    array += 1
    assert not kept.put_back(array=array)["array"].flags.writeable
    assert array.tolist() == [0, 1, 2]


def test_bytes_that_belong_to_no_field_are_no_state() -> None:
    dtype = np.dtype({"names": ["a", "b"], "formats": ["i1", "f8"]}, align=True)
    first = np.frombuffer(b"\1" * 16, dtype=dtype).copy()
    second = np.frombuffer(b"\1" + b"\2" * 7 + b"\1" * 8, dtype=dtype).copy()
    assert capture(it=first).digests() == capture(it=second).digests()
    second["b"] = 3
    assert capture(it=first).digests() != capture(it=second).digests()


def test_what_stands_for_something_outside_the_interpreter_is_named() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert "belongs to its process" in why_not(it=left)
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert "belongs to its process" in why_not(it=child)
    child.wait()
    assert "belongs to its process" in why_not(it=sqlite3.connect(":memory:"))
    assert "belongs to its process" in why_not(it=concurrent.futures.ThreadPoolExecutor())
    assert "belongs to its process" in why_not(it=multiprocessing.get_context("spawn").Queue())
    assert not capture(it=multiprocessing.get_context("spawn")).unavailable


def test_texts_in_memory_are_captured_with_their_position() -> None:
    text = io.StringIO("ab\ncd\n")
    text.readline()
    box = [text]
    kept = Kept(box=box)
    text.readline()
    assert kept.put_back(box=box)["box"][0].read() == "cd\n"


def test_the_children_that_a_generator_spawned_are_counted() -> None:
    rng = np.random.default_rng(3)
    rng.spawn(2)
    kept = Kept(rng=rng)
    expected = rng.spawn(1)[0].integers(1 << 40)
    fresh = np.random.default_rng(3)
    assert kept.put_back(rng=fresh)["rng"].spawn(1)[0].integers(1 << 40) == expected
    assert kept.put_back()["rng"].spawn(1)[0].integers(1 << 40) == expected


def test_memory_maps_are_refused_where_they_write_and_kept_where_they_read(tmp_path: Any) -> None:
    written = np.memmap(tmp_path / "w", dtype="f8", mode="w+", shape=(4,))
    assert "mapped to a file" in why_not(it=written)
    assert "mapped to a file" in why_not(it=np.asarray(written)[1:])
    written.flush()
    read = np.memmap(tmp_path / "w", dtype="f8", mode="r", shape=(4,))
    assert Kept(it=read).put_back(it=read)["it"] is read


# What can't be captured ---------------------------------------------------------------------------------------------------


def test_what_cannot_be_captured_is_named(tmp_path: Any) -> None:
    (tmp_path / "in.txt").write_text("a\nb\n")
    with (tmp_path / "in.txt").open() as file, (tmp_path / "out.txt").open("w") as out:
        assert why_not(it={"a": [file]}) == "`it['a'][0]` is an open file that is read from"
        assert not capture(it=out).unavailable
    assert "`it.g` is a builtins.generator" in why_not(it=Node(g=(x for x in [1])))
    assert "iterator" in why_not(it=iter([1]))
    assert "itertools.count" in why_not(it=Node(ids=itertools.count()))
    assert "weak proxy" in why_not(it=Node(p=weakref.proxy(Node())))
    assert "subclass of numpy.ndarray" in why_not(it=np.ma.masked_array([1, 2]))

    @functools.lru_cache
    def cached(x: int) -> list[int]:
        return [x]

    assert not capture(it=cached).unavailable
    cached(1)
    assert "cache of results" in why_not(it=cached)
    wait = threading.Event()
    thread = threading.Thread(target=wait.wait, daemon=True)
    thread.start()
    assert "runs on by itself" in why_not(it=thread)
    wait.set()


def test_a_lock_stays_the_live_one() -> None:
    holder = Node(lock=threading.Lock(), n=1)
    lock = holder.lock
    there_and_back(holder, lambda h: setattr(h, "n", 2))
    assert holder.lock is lock


class Broken:
    def __reduce_ex__(self, protocol: object) -> Any:
        raise RuntimeError("no")

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class either")


def test_a_failed_root_leaves_the_others_whole() -> None:
    big = np.arange(10.0)
    shared = [big[2:4], 1]
    state = capture(bad=[shared, iter([1])], good=[shared, big])
    assert list(state.unavailable) == ["name:bad"]
    assert list(state.roots) == ["name:good"]
    state.digests()


def test_a_deep_structure_is_named_or_put_back() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    state = capture(deep=deep)
    assert "nested too deeply" in state.unavailable.get("name:deep", "nested too deeply")


def test_a_large_graph_is_walked_in_linear_time() -> None:
    import gc
    import time

    gc.disable()

    def seconds(roots: int) -> float:
        best = 9.0
        for _ in range(3):
            begin = time.process_time()
            capture(**{f"n{i}": [i, [i], {"a": i}] for i in range(roots)})
            best = min(best, time.process_time() - begin)
        return best

    try:
        assert seconds(8000) < 16 * seconds(1000) + 0.05
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "views",
    [
        lambda whole: [whole[:8]],
        lambda whole: [whole[:8], whole[2:4]],
        lambda whole: [whole[2:4], whole[:8], whole[0:8].reshape(2, 4)],
        lambda whole: [whole[:8:2], whole[1:8:2], whole[60:]],
        lambda whole: [whole[n : n + 1] for n in range(8)],
    ],
)
def test_only_memory_that_views_reach_is_compared(views: Any) -> None:
    """An array that nothing but its views leads to may hold bytes that were never written."""
    first, other = np.arange(64.0), np.arange(64.0)
    other[8:60] = 7.0
    assert capture(a=views(first)).digests() == capture(a=views(other)).digests()
    other[3] += 1.0
    assert capture(a=views(first)).digests() != capture(a=views(other)).digests()
    assert capture(a=views(first), b=first).digests() != capture(a=views(other), b=other).digests()


def test_views_that_share_bytes_still_do_when_they_are_put_back() -> None:
    whole = np.arange(64.0)
    kept = Kept(small=whole[2:4], large=whole[:8], inner=whole[3:5])
    anew = kept.put_back()
    anew["large"][3] = 99.0
    assert (anew["small"][1], anew["inner"][0]) == (99.0, 99.0)
    live = {"small": whole[2:4], "large": whole[:8], "inner": whole[3:5]}
    whole[:] = -1.0
    kept.put_back(**live)
    assert live["small"].tolist() == [2.0, 3.0]
    assert whole[8:].tolist() == [-1.0] * 56, "what no view reaches is left alone"


def signed(a: int, b: list[int] | None = None, *rest: int, flag: bool = False) -> int:
    return a


def test_read_only_views_and_signatures_are_put_back() -> None:
    table = {"a": [1, 2]}
    live = {"view": types.MappingProxyType(table), "table": table, "signature": inspect.signature(signed)}
    kept = Kept(**live)
    table["a"].append(3)
    kept.put_back(**live)
    assert live["view"]["a"] == [1, 2]
    anew = kept.put_back()
    assert anew["view"] == {"a": [1, 2]}
    anew["table"]["b"] = 1
    assert anew["view"]["b"] == 1, "it still shows the same mapping"
    assert anew["signature"] == inspect.signature(signed)


def test_the_namespace_of_a_class_is_no_mapping_of_its_own() -> None:
    assert "namespace of a class" in why_not(space=vars(Node))
