"""One audit hook tells all that listen, in their order; who raises stops the event."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from flor_dagster.replay.auditing import listen
told = []
listen(("flor.one", "flor.two"), lambda event, args: told.append(("first", event, args)))
listen(("flor.two",), lambda event, args: told.append(("second", event, args)))
sys.audit("flor.one", 1)
sys.audit("flor.two", 2)
sys.audit("flor.three", 3)
assert told == [("first", "flor.one", (1,)), ("first", "flor.two", (2,)), ("second", "flor.two", (2,))], told

def refuse(event, args):
    raise PermissionError("no")

listen(("flor.one",), refuse)
try:
    sys.audit("flor.one", 4)
except PermissionError:
    print("refused")
assert told[-1] == ("first", "flor.one", (4,))
"""


def test_all_that_listen_are_told_in_their_order() -> None:
    # An audit hook can't be taken away again: in a process of its own.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
