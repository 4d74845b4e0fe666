"""Capture, travel through JSON, change the program, graft back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.graft import Grafter
from flor_dagster.recording.state import State


def is_own(module: str) -> bool:
    return module.startswith(("tests.recording.test_", "own_"))


def capture(**roots: Any) -> State:
    capturer = Capturer(is_own)
    for name, value in roots.items():
        capturer.add(f"name:{name}", value)
    capturer.follow()
    return capturer.finish()


class Kept:
    """A captured state as a checkpoint holds it."""

    def __init__(self, *, moved: dict[str, list[str]] | None = None, **roots: Any) -> None:
        state = capture(**roots)
        assert not state.unavailable, state.unavailable
        self.digests = state.digests()
        self.buffers = {digest: bytes(copy.data) for digest, copy in state.buffers.items()}
        self.nodes, self.roots = json.loads(json.dumps([state.nodes, state.roots]))
        self.moved = {f"name:{name}": places for name, places in (moved or {}).items()}

    def put_back(self, **live: Any) -> dict[str, Any]:
        """Graft into the live objects; the values to use, whose digests equal the captured ones."""
        from flor_dagster.recording.globals import live_global
        from flor_dagster.recording.shape import MISSING

        grafter = Grafter(self.nodes, self.buffers.__getitem__, moved=self.moved, is_own=is_own)
        roots = {}
        for root, ref in self.roots.items():
            kind, _, name = root.partition(":")
            roots[root] = ref, live.get(name, MISSING) if kind == "name" else live_global(kind, name)
        restored = grafter.restore(roots)
        import sys

        for root, value in restored.items():
            kind, _, name = root.partition(":")
            if kind != "name":
                sys.modules[kind].__dict__[name] = value
        values = {root.partition(":")[2]: v for root, v in restored.items() if root.startswith("name:")}
        again = capture(**values)
        wanted = self.digests
        got = again.digests()
        assert {k: got.get(k) for k in wanted} == wanted
        return values


def there_and_back(value: Any, change: Callable[[Any], None]) -> Any:
    """Capture a value, change it in place, put it back: it is the same object, in the same state."""
    kept = Kept(it=value)
    change(value)
    restored = kept.put_back(it=value)["it"]
    assert restored is value
    return restored


def why_not(**roots: Any) -> str:
    """The one reason why something can't be captured."""
    (reason,) = capture(**roots).unavailable.values()
    return reason
