"""A capture along a plan: what it says is taken over, the numbers are looked at, only the rest is walked."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from flor_dagster.recording.capture import Capturer, is_scalar
from flor_dagster.recording.flat import FlatState
from flor_dagster.recording.following import Match
from flor_dagster.recording.hulls import storage_hulls
from flor_dagster.recording.memory import Bundle, KnownMemory, digested
from flor_dagster.recording.state import State, digest_bytes


class PlannedCapturer(Capturer):
    """Captures what a plan covers without walking it.

    Args:
        match: the live objects that have the form of the plan.
        is_own: see `Capturer`.
        root_path: likewise.
        known: likewise.
    """

    def __init__(
        self, match: Match, is_own: Callable[[str], bool], root_path: str, known: KnownMemory
    ) -> None:
        super().__init__(is_own, root_path, known)
        plan = match.plan
        self._plan = plan
        self._match: Match | None = match
        self.covered = len(plan.nodes)
        self.state.nodes = nodes = list(plan.nodes)
        for number, node in match.patches.items():
            nodes[number] = node
        self.state.roots.update(zip(plan.names, plan.refs, strict=True))
        self.pending += match.buffers
        self._storages = plan.tensors.storages
        self._hulls = [plan.hulls.get(number, (0, 0)) for number in self._storages]
        self._addresses = match.addresses
        self.spans = match.spans
        self._bundle: Bundle | None = None
        self.patched = match.patches

    def add(self, name: str, value: Any) -> None:
        """Capture one root that the plan does not cover."""
        if not is_scalar(value):
            self.identities()
        super().add(name, value)

    def ref(self, value: Any) -> Any:
        """See `Capturer`."""
        if not is_scalar(value):
            self.identities()
        return super().ref(value)

    def identities(self) -> dict[int, int]:
        """Identity of each captured object → its node."""
        if self._match is not None and not self.memo:
            self.memo = dict(zip(self._match.numbers, self._plan.numbers, strict=True))
            for storage, number in zip(self._match.storages, self._storages, strict=True):
                self.memo[-storage._cdata] = number  # noqa: SLF001 - as the adapter of tensors names it
        return self.memo

    def walked_identities(self) -> dict[int, int]:
        """The same, of what the plan does not cover."""
        planned = len(self._plan.numbers) + len(self._storages)
        return dict(islice(self.memo.items(), planned, None))

    @property
    def match(self) -> Match | None:
        """The live objects, until they are copied."""
        return self._match

    def copy(self, check: Callable[[float], object] = float) -> None:
        """Copy the memory; see `Capturer`."""
        if self._match is None:
            return
        self._widen()
        assert self._known is not None
        whole = self.pending_bytes
        addresses = [address + hull[0] for address, hull in zip(self._addresses, self._hulls, strict=True)]
        sizes = [end - begin for begin, end in self._hulls]
        self._bundle = Bundle(self._known, addresses, sizes, lambda done: check(done / whole))
        self._match = None
        super().copy()

    def _widen(self) -> None:
        """What is walked may show more of a storage than the plan."""
        more = self.state.nodes[self.covered :]
        if not any(node and node[0] == "tensor" for node in more):
            return
        for number, (begin, end) in storage_hulls(more).items():
            if number < self.covered and begin != end:
                place = self._storages.index(number)
                old = self._hulls[place]
                whole = (begin, end) if old[0] == old[1] else (min(old[0], begin), max(old[1], end))
                self._hulls[place] = whole

    def finish(self, pace: Callable[[], None] | None = None) -> State:
        """Digest the copied memory and return the state; see `Capturer`."""
        self.copy()
        if self._bundle is not None:
            nodes, copies = self.state.nodes, self._bundle.copies()
            digests = digested(copies, self._plan.copies, digest_bytes, pace or (lambda: None))
            places = zip(self._storages, self._addresses, copies, digests, strict=True)
            for number, address, copy, digest in places:
                nodes[number] = node = list(nodes[number])
                self.spans.add(address, address + node[2], node)
                node[3] = digest
                self.state.buffers.setdefault(digest, copy)
            self._bundle = None
            self._digests_from_plan()
            self._plan.copies = copies if self._known is not None and self._known.keeps(copies) else []
        return super().finish(pace)

    def _digests_from_plan(self) -> None:
        """Have the digests of the planned roots made from the plan's text."""
        plan, patched = self._plan, frozenset(self.patched)
        if plan.flat is None:
            changing = {n for level in plan.levels for g in level.groups if g.way == "described"
                        for n in level.numbers[g.start : g.end]}  # fmt: skip
            roots = dict(zip(plan.names, plan.refs, strict=True))
            plan.flat = FlatState(plan.nodes, roots, frozenset(changing | set(plan.tensors.storages)))
        flat, nodes = plan.flat, self.state.nodes
        self.state.digester = lambda root: flat.digest(root, nodes, patched)

    @property
    def pending_bytes(self) -> int:
        """The bytes that are copied, or to be copied."""
        return super().pending_bytes + sum([end - begin for begin, end in self._hulls])
