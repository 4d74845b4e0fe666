"""What belongs to an end state: the registered objects, the generators, and what a loop's code may touch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flor_dagster.recording import letgo, switches
from flor_dagster.recording.capture import Capturer
from flor_dagster.recording.entries import Entry
from flor_dagster.recording.footprints import Footprint, look
from flor_dagster.recording.globals import find_global
from flor_dagster.recording.listening import listeners
from flor_dagster.recording.listing import OF_TENSOR
from flor_dagster.recording.memory import KnownMemory
from flor_dagster.recording.outside import places_in
from flor_dagster.recording.retracing import Place
from flor_dagster.recording.shape import MISSING, frame_locals
from flor_dagster.recording.surveying import Survey, survey

if TYPE_CHECKING:
    from flor_dagster.recording.generators import Generators
    from flor_dagster.recording.loops import LoopExecution


class Walker:
    """Finds the roots of an end state in a live program.

    Args:
        root: the top of the work tree.
        is_own: whether a module's code belongs to the repository.
        generators: the shared random generators.
    """

    def __init__(self, root: Path, is_own: Callable[[str], bool], generators: Generators) -> None:
        self.registered: dict[str, tuple[Any, tuple[str, ...]]] = {}
        self._root = root
        self.is_own = is_own
        self._generators = generators
        self.known = KnownMemory()
        self._places: dict[tuple[str, int, int], Place] = {}
        self._hosts: list[Any] = []

    def registered_now(self, name: str, values: Mapping[str, Any]) -> Any:
        """A registered object: the one that its name has now, so that a model made anew is followed."""
        registered, aliases = self.registered[name]
        alias = next((a for a in aliases if a in values), None)
        return registered if alias is None else values[alias]

    def walk(self, execution: LoopExecution) -> Capturer:
        """Capture what an execution's code may have changed, as copies."""
        return self._walk(execution, self._explicit(execution))

    def retrace(self, execution: LoopExecution) -> Capturer:
        """The same; what has the form that it had at the same place before is only compared with it (see `plans`)."""
        site = execution.site
        place = self._places.get(site)
        if place is None:
            place = self._places[site] = Place(self.is_own, str(self._root), self.known)
        explicit = self._explicit(execution)
        capturer = place.capture(explicit, lambda walk: self._note_body(execution, walk, explicit))
        if capturer is None:
            capturer = self._walk(execution, explicit)
            place.walked(capturer, explicit)
        return capturer

    def hosted(self) -> None:
        """A host begins the run: what listens now is the host's."""
        self._hosts = [listener for found in listeners(self.is_own).values() for listener in found]

    def listeners(self) -> dict[str, list[Any]]:
        """What libraries fill or call: root name → the objects."""
        return listeners(self.is_own, self._hosts)

    def _explicit(self, execution: LoopExecution, *, listening: bool = True) -> dict[str, Any]:
        """The roots of an end state that are no globals; those of listeners take long to find."""
        roots: dict[str, Any] = dict(self._generators.meet())
        frame, source = execution.frame, execution.source
        if frame is None or source is None:
            return roots
        values = frame_locals(frame)
        roots |= {f"object:{name}": self.registered_now(name, values) for name in self.registered}
        if frame.f_code.co_name != "<module>":
            names = sorted(source.stored | source.loaded)
            roots |= {f"name:{name}": values[name] for name in names if name in values}
        return roots | self.listeners() if listening else roots

    def _walk(self, execution: LoopExecution, explicit: Mapping[str, Any]) -> Capturer:
        capturer = Capturer(self.is_own, str(self._root), self.known)
        for name, value in explicit.items():
            capturer.add(name, value)
        self._note_body(execution, capturer, explicit)
        capturer.follow()
        return capturer

    def _note_body(self, execution: LoopExecution, capturer: Capturer, explicit: Mapping[str, Any]) -> None:
        """Note the globals that a loop's own code names or touches."""
        frame, source = execution.frame, execution.source
        if frame is None or source is None:
            return
        at_module_level = frame.f_code.co_name == "<module>"
        for name in sorted(source.stored | source.loaded):
            if (at_module_level or f"name:{name}" not in explicit) and name in frame.f_globals:
                capturer.note_global(frame.f_globals, name)
        values = {} if at_module_level else frame_locals(frame)
        names = {**frame.f_globals, **values} if values else frame.f_globals
        capturer.note_touches(source.touches, names, f"the body of {execution.name}")
        capturer.outside |= places_in(frame.f_code, frame.f_globals, self.is_own)

    def turned(self, before: switches.Readings) -> tuple[dict[str, switches.Value], list[str]]:
        """The process's settings that are others than at a loop's entry, and why some of them can't be put back."""
        return switches.turned(before, str(self._root))

    def enter(self, execution: LoopExecution, global_roots: tuple[str, ...]) -> Entry:
        """Note which objects there are behind what an execution's code may change, when it begins.

        Args:
            execution: the loop execution.
            global_roots: the globals that belong to it.

        Raises:
            TooManyError: there are too many.
        """
        roots = self._surveyed(execution, global_roots)
        names = self._rebindable(execution, global_roots, roots)
        held = letgo.held_elsewhere(roots, names)
        place = self._places.get(execution.site)
        match = (
            None
            if place is None
            else place.glance(lambda listening: self._explicit(execution, listening=listening))
        )
        entry = Entry(survey(roots, self.is_own) if match is None else look(match, roots, self.is_own))
        if held:
            # What only the program's own objects hold beside the names is found at their places.
            inside = Counter(n for inner in entry.full.children.values() for n in inner.values())
            entry.held = [value for value, more in held if more > inside[id(value)]]
        entry.hold(letgo.named_elsewhere(execution.frame, roots, self.is_own))
        tensors = letgo.memory_of(roots, names)
        if tensors:
            on = Counter(inner.get(OF_TENSOR) for inner in entry.full.children.values())
            entry.shared = {number: root for number, (root, users) in tensors.items() if users > on[number]}
        return entry

    @staticmethod
    def _rebindable(
        execution: LoopExecution, global_roots: tuple[str, ...], roots: Mapping[str, Any]
    ) -> list[str]:
        """The names of roots that a loop may bind to other objects: itself, or a function that it reaches."""
        source, frame = execution.source, execution.frame
        if source is None or frame is None:
            return []
        module = frame.f_globals.get("__name__")
        named = {f"{module}:{name}" for name in source.stored | source.loaded}
        stored = {f"{kind}:{name}" for name in source.stored for kind in ("name", module)}
        stored -= _untouched(execution)
        return [*(stored & roots.keys()), *((set(global_roots) & roots.keys()) - named)]

    def changes(
        self, execution: LoopExecution, global_roots: tuple[str, ...], entry: Entry, capturer: Capturer
    ) -> tuple[dict[str, Any], list[str]]:
        """What a loop has changed since it began, at a capture whose memory is not copied yet.

        Args:
            execution: the loop execution.
            global_roots: as when it began.
            entry: what it found.
            capturer: the capture.

        Returns:
            What a checkpoint keeps of it (see `surveying.by_node`), and the names that are gone.

        Raises:
            TooManyError: there are too many objects.
        """
        roots = self._surveyed(execution, global_roots)
        match = capturer.match
        now = survey(roots, self.is_own) if match is None else look(match, roots, self.is_own)
        self._keep_lost(execution, entry, now, capturer)
        return entry.changes(now, capturer), sorted(entry.roots.keys() - roots.keys())

    def _keep_lost(
        self, execution: LoopExecution, entry: Entry, now: Survey | Footprint, capturer: Capturer
    ) -> None:
        """Capture what no name of the loop leads to any more, and something else still holds."""
        for root in entry.lost_memory(now):
            reason = f"`{root.partition(':')[2]}` shares its memory with something else, and the loop lets go of it"
            capturer.state.unavailable[f"{letgo.KIND}:{root}"] = reason
        lost = [value for value in entry.lost(now) if letgo.is_changing(value)]
        if not lost:
            return
        own = {id(value): 1 for value in entry.held}
        held = letgo.still_held(lost, self.is_own, own)
        places = entry.ways_to(set(map(id, held)), _untouched(execution)) if held else {}
        for value in held:
            way = places.get(id(value))
            if way is not None:
                capturer.add(letgo.root_of(way), value)

    def _surveyed(self, execution: LoopExecution, global_roots: tuple[str, ...]) -> dict[str, Any]:
        """The roots of a survey."""
        frame, source = execution.frame, execution.source
        if frame is None or source is None:
            return {}
        values = frame_locals(frame)
        roots = {f"object:{name}": self.registered_now(name, values) for name in self.registered}
        code = frame.f_code
        # A local name that is not bound yet is no global of the same name.
        local = (
            set() if code.co_name == "<module>" else {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        )
        module = frame.f_globals.get("__name__")
        for name in source.stored | source.loaded:
            if name in local:
                if name in values:
                    roots[f"name:{name}"] = values[name]
            elif name in frame.f_globals and isinstance(module, str) and self.is_own(module):
                # Also what was bound since the loop's code was first looked through: a loss, a batch.
                roots[f"{module}:{name}"] = frame.f_globals[name]
        for root in global_roots:
            value = find_global(*root.split(":", 1))
            if value is not MISSING:
                roots[root] = value
        return roots


def sort_unavailable(execution: LoopExecution, capturer: Capturer) -> tuple[list[str], dict[str, str]]:
    """What could not be captured: reasons that make the execution unskippable, and names that nothing reads."""
    source = execution.source
    reasons: list[str] = []
    dead: dict[str, str] = {}
    for root, reason in capturer.state.unavailable.items():
        kind, _, name = root.partition(":")
        if (
            source is not None
            and kind == "name"
            and name not in source.read_outside
            and name in source.first_stored
        ):
            dead[name] = reason
        else:
            reasons.append(reason)
    return reasons, dead


def _untouched(execution: LoopExecution) -> set[str]:
    """Roots whose objects of before a loop nothing in it reaches by these names: each iteration binds them first."""
    source, frame = execution.source, execution.frame
    if source is None or frame is None:
        return set()
    shared = {*frame.f_code.co_cellvars, *frame.f_code.co_freevars}
    kind = frame.f_globals.get("__name__") if frame.f_code.co_name == "<module>" else "name"
    return {f"{kind}:{name}" for name in source.untouched - shared}


def tainted_roots(execution: LoopExecution) -> tuple[str, ...]:
    """Roots that hold clock or process values."""
    source, frame = execution.source, execution.frame
    if source is None or frame is None:
        return ()
    module = frame.f_globals.get("__name__", "?")
    return tuple(r for name in sorted(source.tainted) for r in (f"name:{name}", f"{module}:{name}"))
