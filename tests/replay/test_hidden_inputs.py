"""What a program takes from its world by a way of its own: a listing, a library, a child, a setting of the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from flor_dagster.replay.model import Question
from tests.replay.conftest import PACKAGE, Lab

pytestmark = pytest.mark.ci

SCRIPT = """\
{head}
import flor_dagster as flor
{before}
for epoch in flor.loop("epoch", range(3)):
    for step in flor.loop("step", range(2)):
        {step}
    flor.log("epochs", epoch)
    {asked}
"""


def train(lab: Lab, **variables: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOR_")}
    environment |= {"PYTHONPATH": str(PACKAGE), "PYTHONHASHSEED": "0", "FLOR_CHECKPOINTS": "all"} | variables
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=lab.root, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def asked(
    lab: Lab, parts: dict[str, str], expression: str, **variables: str
) -> tuple[str | None, list[object], str]:
    """Record with the variables, ask without them: fidelity, values, sentence."""
    parts = {"head": "", "before": "", "step": "pass"} | parts
    lab.commit({"train.py": SCRIPT.format(**parts, asked="")})
    train(lab, **variables)
    lab.write({"train.py": SCRIPT.format(**parts, asked=f'flor.log("asked", {expression})')})
    with lab.open() as workspace:
        (answer,) = workspace.answer(Question(("asked",), allow_effects=True)).cells
        frame = workspace.store.dataframe("asked", fidelity="any")
    values = list(frame["asked"].dropna()) if "asked" in frame else []
    return answer.cell.fidelity, values, answer.cell.sentence


POOL = """\
if __name__ == "__main__":
    K = mp.get_context({method!r}).Pool(1).map(helper.read, [0])[0]
"""
HELPER = 'import os\ndef read(_):\n    return len(os.environ.get("MYK_" + "token".upper(), "7"))\n'
SECRET = {"MYK_TOKEN": "222222222222"}


@pytest.mark.parametrize(
    ("parts", "expression", "variables"),
    [
        ({"before": "import os; E = dict(os.environ); K = len(E.get('MYK_TOKEN', '7'))"}, "K", SECRET),
        ({"before": "import os; K = sum(len(v) for k, v in os.environ.items() if k.startswith('MYK_'))"}, "K", SECRET),
        ({"before": "import subprocess; K = len(subprocess.run(['sh', '-c', 'echo ${MYK_TOKEN:-7}'], capture_output=True).stdout)"}, "K", SECRET),
        ({"head": "import os; K = len(os.environ.get('MY' + 'K_' + 'token'.upper(), '7'))"}, "K", SECRET),
        ({"before": "import urllib.request; P = urllib.request.getproxies().get('http', 'none')"}, "len(P)", {"http_proxy": "http://u:secretpw99@h:1"}),
        ({"head": "import multiprocessing as mp, helper", "before": POOL.format(method="fork")}, "K", SECRET),
        ({"head": "import os, helper", "before": "r, w = os.pipe()\nif not os.fork():\n    os.write(w, b'%d' % helper.read(0)); os._exit(0)\nK = int(os.read(r, 9))"}, "K", SECRET),
    ],
    ids=["a copy", "a listing", "a child", "a computed name before the import", "proxies", "a pool before the run", "a fork before the run"],
)  # fmt: skip
def test_what_can_not_be_given_back_is_never_exact(
    lab: Lab, parts: dict[str, str], expression: str, variables: dict[str, str]
) -> None:
    lab.write({"helper.py": HELPER})
    fidelity, _, sentence = asked(lab, parts, expression, **variables)
    assert fidelity != "exact", sentence
    assert next(iter(variables)) in sentence, sentence


@pytest.mark.parametrize(
    ("expression", "variables"),
    [
        ("__import__('tempfile').gettempdir()", {"TMPDIR": "/var/tmp"}),
        ("__import__('getpass').getuser()", {"LOGNAME": "alice"}),
        ("__import__('urllib.request').request.getproxies()", {"http_proxy": "http://h:1"}),
    ],
)
def test_what_a_statement_reads_of_another_world_is_never_exact(
    lab: Lab, expression: str, variables: dict[str, str]
) -> None:
    fidelity, _, sentence = asked(lab, {}, expression, **variables)
    assert fidelity != "exact", sentence


@pytest.mark.parametrize(
    ("step", "expression", "values"),
    [
        ("os.environ['TZ'] = ['Asia/Tokyo', 'UTC', 'America/New_York'][epoch]; time.tzset()", "time.strftime('%H', time.localtime(0))", ["09", "00", "19"]),
        ("os.umask([0o22, 0o77, 0][epoch])", "os.umask(os.umask(0)) and 0 or oct(os.umask(0o22))", None),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (1000 + epoch, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))", "resource.getrlimit(resource.RLIMIT_NOFILE)[0]", [1000, 1001, 1002]),
        ("os.sched_setaffinity(0, [{min(CPUS)}, {max(CPUS)}, CPUS][epoch])", "sorted(os.sched_getaffinity(0)) == sorted([{min(CPUS)}, {max(CPUS)}, CPUS][epoch])", [True] * 3),
        ("os.putenv('EP', str(epoch))", "subprocess.run(['sh', '-c', 'echo E$EP'], capture_output=True, text=True).stdout.strip()", ["E0", "E1", "E2"]),
    ],
    ids=["time zone", "umask", "limit", "processors", "putenv"],
)  # fmt: skip
def test_a_setting_of_the_process_that_a_skipped_loop_changed_is_as_it_left_it(
    lab: Lab, step: str, expression: str, values: list[object] | None
) -> None:
    if values is None:
        expression, values = "MASK()", ["0o22", "0o77", "0o0"]
    head = "import os, time, resource, subprocess\nCPUS = os.sched_getaffinity(0)\n"
    head += "def MASK():\n    for line in open('/proc/self/status'):\n        if line.startswith('Umask'):\n            return oct(int(line.split()[1], 8))\n"
    fidelity, found, sentence = asked(lab, {"head": head, "step": step}, expression)
    # A child that a statement starts sees the replay's environment.
    assert fidelity == ("unverified" if "subprocess" in expression else "exact"), sentence
    assert found == values


def test_no_form_of_a_secret_in_bytes_is_kept(lab: Lab) -> None:
    token = "plainS1tokEtok99xyz"
    lab.commit(
        {
            "train.py": "import os, base64\nimport flor_dagster as flor\nt = os.environ['MY_TOKEN'].encode()\nh = bytearray(t)\nn = 0\n"
            "for epoch in flor.loop('epoch', range(2)):\n    n += len(h)\n    flor.log('raw', t)\n    flor.log('two', base64.b64encode(b'user:' + t))\n"
            "    flor.log('hex', t.hex().encode())\n    flor.log('in', {'n': bytearray(t)})\n    flor.log('n', n)\n",
        }
    )
    train(lab, MY_TOKEN=token)
    forms = [token.encode(), token.encode().hex().encode()]
    for path in (lab.root / ".flor").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(form in data for form in forms), path
    with lab.open() as workspace:
        workspace.sync()
        frame = workspace.store.dataframe("raw", "two", "hex", "in", "n")
    assert list(frame["raw"]) == ["***"] * 2
    assert all("***" in value for value in (*frame["two"], *frame["hex"]))
    assert json.dumps(list(frame["in"])) == '[{"n": "***"}, {"n": "***"}]'
    assert list(frame["n"]) == [len(token), 2 * len(token)]
