"""The checkpoints of a recorded run, put back into the running program and compared with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flor_dagster.errors import CheckpointError, FlorError, ReplayError
from flor_dagster.recording import letgo, listening, switches
from flor_dagster.recording.checkpoints import CheckpointStore, Manifest
from flor_dagster.recording.comparing import Comparison, compare_states
from flor_dagster.recording.differing import Recogniser
from flor_dagster.recording.globals import live_global, put_global
from flor_dagster.recording.graft import Bytes, Grafter
from flor_dagster.recording.kept import KeptBuffers
from flor_dagster.recording.memory import Copy
from flor_dagster.recording.shape import MISSING, frame_locals

if TYPE_CHECKING:
    from flor_dagster.recording.capture import Capturer
    from flor_dagster.recording.generators import Generators
    from flor_dagster.recording.loops import LoopExecution
    from flor_dagster.recording.walking import Walker


class Restorer:
    """Puts the end states of one run back.

    A module's names are bound at once; the local names of a function are kept until its patched source takes them.

    Args:
        checkpoints: where they are.
        run_id: whose.
        root: the top of the work tree here.
        walker: finds what belongs to an end state.
        generators: the shared random generators.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        run_id: str,
        root: str,
        walker: Walker,
        generators: Generators,
    ) -> None:
        self._checkpoints = checkpoints
        self._run_id = run_id
        self._root = root
        self._walker = walker
        self._generators = generators
        self._is_own = walker.is_own
        self._buffers = KeptBuffers(checkpoints, walker.known)
        self._manifests: dict[str, Manifest] = {}
        self._pending: dict[str, Any] = {}
        self._pending_for = ""
        self._replaced: list[weakref.ref[Any]] = []
        self._let_go: list[Any] = []

    def put_back(self, execution: LoopExecution, name: str, *, entered: bool) -> None:
        """Put a checkpoint back.

        Args:
            execution: the loop that is skipped or entered.
            name: the checkpoint's.
            entered: whether it is entered: the `for` itself binds its targets.

        Raises:
            CheckpointError: that can't be done.
        """
        frame, source = execution.frame, execution.source
        if frame is None or source is None:
            raise CheckpointError(f"the `for` statement of {execution.path} can't be seen")
        bound, grafter = self._restore(self._manifest(name), frame_locals(frame))
        self._replaced, self._let_go = grafter.replaced, grafter.let_go()
        left_out = source.targets if entered else ()
        self._pending = {name: value for name, value in bound.items() if name not in left_out}
        self._pending_for = execution.path

    def _manifest(self, name: str) -> Manifest:
        if name not in self._manifests:
            # One at a time: they can be large.
            self._manifests = {name: self._checkpoints.read(self._run_id, name)}
        return self._manifests[name]

    def _restore(self, manifest: Manifest, values: Mapping[str, Any]) -> tuple[dict[str, Any], Grafter]:
        """The local names that got another object, and what put everything back."""
        buffers = self._buffers
        buffers.next_checkpoint()
        reading: list[Copy] = []  # what was asked for last stays until the next

        def read(digest: str) -> Bytes:
            reading[:] = [buffers.read(manifest, digest)]
            return reading[0].data

        grafter = Grafter(
            manifest.nodes, read, self._root, moved=manifest.moved, changed=manifest.changed,
            is_own=self._is_own, wrote=buffers.wrote,
        )  # fmt: skip
        switches.load(_settings_of(manifest))
        unused = self._unused_generators(manifest)
        live = {root: self._live(root, values) for root in manifest.roots if root not in unused}
        listened = {
            root: list(map(id, found)) for root, found in live.items() if root.startswith(listening.KIND)
        }
        before = switches.read_all()
        restored = grafter.restore({root: (manifest.roots[root], now) for root, now in live.items()})
        # Making objects anew may turn something itself: torch counts the hooks of a model.
        by_us, _ = self._walker.turned(before)
        switches.put_back({name: before.values[name] for name in by_us if name in before.values})
        switches.put_back({name: restored.pop(f"{switches.KIND}:{name}") for name in _settings_of(manifest)})
        locals_now: dict[str, Any] = {}
        for root, new in restored.items():
            kind, _, rest = root.partition(":")
            if kind == listening.KIND and list(map(id, new)) != listened[root]:
                raise CheckpointError(f"the recorded run had something else in {rest} here")
            if new is live[root]:
                continue
            if kind == "random":
                raise CheckpointError(f"the random generator {rest} of the recorded run is another one here")
            if kind == letgo.KIND:
                raise CheckpointError(f"what stood at {rest} when the loop began can't be put back in place")
            if kind == "object":
                if not any(
                    value is new for other, value in restored.items() if not other.startswith("object:")
                ):
                    raise CheckpointError(f"the object registered as `{rest}` is another one here")
                continue  # another object under the name that it was registered by: put back there
            if kind == "name":
                locals_now[rest] = new
            else:
                put_global(kind, rest, new)
        return locals_now, grafter

    def _unused_generators(self, manifest: Manifest) -> set[str]:
        """Generators of libraries that only something else in the recorded process had loaded: nothing here draws from them.

        Should this program load one later, the next meeting puts it where the record first saw it, and the comparison
        that follows tells whether that was right.
        """
        here = self._generators.meet()
        return {root for root in manifest.roots if root.startswith("random:") and root not in here}

    def _live(self, root: str, values: Any) -> Any:
        """The object of this program that a root of the record means."""
        kind, _, name = root.partition(":")
        if kind == switches.KIND:
            return MISSING
        if kind == "random":
            return self._generators.meet()[root]
        if kind == listening.KIND:
            found = self._walker.listeners().get(root)
            if found is None:
                raise CheckpointError(f"the recorded run had something in {name} here")
            return found
        if kind == "object":
            if name not in self._walker.registered:
                raise CheckpointError(f"`checkpointing({name}=…)` of the recorded run is not in force here")
            return self._walker.registered_now(name, values)
        if kind == letgo.KIND:
            return letgo.live_at(name, lambda around: self._live(around, values))
        if kind == "name":
            return values.get(name, MISSING)
        return live_global(kind, name)

    def compare(self, execution: LoopExecution, name: str, recogniser: Recogniser) -> Comparison:
        """How a checkpoint compares with the state here.

        Args:
            execution: the loop, at the moment that the checkpoint was taken at.
            name: the checkpoint's.
            recogniser: tells what no replay can give again.
        """
        manifest = self._manifest(name)
        capturer: Capturer = self._walker.walk(execution)
        left_out = self._unused_generators(manifest) | set(manifest.tainted)
        left_out |= {root for root in manifest.roots if root.startswith(f"{letgo.KIND}:")}
        for name in _settings_of(manifest):
            try:
                capturer.add(f"{switches.KIND}:{name}", switches.read_one(name))
            except KeyError:  # of a library that only something else in the recorded process had loaded
                left_out.add(f"{switches.KIND}:{name}")
        found = compare_states(manifest, capturer.finish(), left_out, recogniser, self._read(manifest))
        found.unequal += self._turned_only_here(execution, manifest)
        return found

    def _read(self, manifest: Manifest) -> Callable[[str], Any]:
        """What gives the content of a checkpoint's buffers, for words about a difference alone."""

        def read(digest: str) -> Any:
            try:
                return self._checkpoints.buffer(manifest, digest)
            except (OSError, FlorError):
                return None

        return read

    def _turned_only_here(self, execution: LoopExecution, manifest: Manifest) -> list[str]:
        """Settings that the executed code changed and the recorded code did not."""
        before = execution.switches
        if before is None:
            return []
        here, _ = self._walker.turned(before)
        left_out = switches.not_compared(here)
        roots = [f"{switches.KIND}:{name}" for name in here if name in before.values and name not in left_out]
        return [root for root in roots if root not in manifest.roots]

    # Local names ----------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the loop that was just skipped or entered left a value for a local name."""
        return name in self._pending

    def take(self, name: str) -> Any:
        """That value."""
        if name not in self._pending:
            raise ReplayError(f"no value was put back for `{name}`")
        return self._pending.pop(name)

    def rebound(self) -> None:
        """Where all names are bound again, what they let go of must be gone, else somebody sees it.

        Raises:
            CheckpointError: it is not.
        """
        if self._pending or not (self._replaced or self._let_go):
            return
        let_go, self._let_go = self._let_go, []
        replaced, self._replaced = self._replaced, []
        kind = self._held(let_go)
        if kind:
            gc.collect()  # what refers to itself holds nothing
            kind = self._held(let_go)
        if kind:
            raise CheckpointError(
                f"{kind} is let go of here that may have been changed in place before, and something that isn't captured holds it"
            )
        let_go.clear()
        if any(reference() is not None for reference in replaced):
            gc.collect()
        if any(reference() is not None for reference in replaced):
            raise CheckpointError(
                "an array was changed in place in a way that can't be put back, and something that isn't captured holds it, too"
            )

    def _held(self, let_go: list[Any]) -> str:
        """What was let go of and something else holds, in words; empty where nothing does.

        Only what the record can't find again: all else is captured (see `letgo`).
        """
        held = letgo.still_held(let_go, self._is_own) if let_go else []
        kinds = [type(value).__name__ for value in held if letgo.is_lost(type(value))]
        return f"an object of type `{kinds[0]}`" if kinds else ""

    @property
    def all_bound(self) -> bool:
        """Whether no local name waits for the patched source to take it."""
        return not self._pending

    def check_rebound(self) -> None:
        """The program goes on.

        Raises:
            CheckpointError: not all names are bound again, or as in `rebound`.
        """
        self.rebound()
        if self._pending:
            names, self._pending = ", ".join(sorted(self._pending)), {}
            raise CheckpointError(
                f"the local names {names} of {self._pending_for} were not put back by the patched source"
            )


def _settings_of(manifest: Manifest) -> list[str]:
    return [
        name for kind, _, name in (root.partition(":") for root in manifest.roots) if kind == switches.KIND
    ]
