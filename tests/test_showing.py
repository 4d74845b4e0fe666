"""Every text that is not ours goes through `shown`, by its destination; nothing is printed or handed to Dagster otherwise."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from flor_dagster.cli import cli
from flor_dagster.showing import json_text, shown
from tests.replay.conftest import Lab

PACKAGE = Path(__file__).parents[1] / "flor_dagster"
OWN = {"cli/output.py", "cli/wording.py", "orchestration/metadata.py", "cli/reference.py"}
"""Where what is shown is made: the makers themselves, and a command that prints this program's own help."""

PRINTS = {"recording/trouble.py"}
CHILDREN = {
    "recording/replaying.py", "replay/child.py", "replay/guard.py", "replay/launching.py", "replay/watching.py",
    "replay/environments.py",
}  # fmt: skip
"""What a replay's child writes goes into a pipe; the coordinator shows it."""

NASTY = "[bold]x [/data/a] [nan, 1.0] \x1b]0;title\x07\x1b[2J\x9b31m \u202e ``` `a` <script>alert(1)</script> $a_$ \udce9"


def _other_ways(tree: ast.AST, file: str) -> list[str]:
    """The calls of a file that show a text without `shown`."""
    found: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        last = called.rpartition(".")[2]
        if called == "print" or called.endswith(
            (".echo", ".secho", "stdout.write", "stderr.write", "console.print")
        ):
            found.append(called)
        if (
            file.startswith(("cli/", "x.py")) and called in ("Text", "Table", "Console")
        ) or called.startswith(("Text.", "rich.")):
            found.append(called)
        if "MetadataValue." in called or (last == "log" and "context" in called):
            found.append(called)
        if called.startswith("context.log.") and any(_is_foreign(one) for one in node.args):
            found.append(called)
        if last in (
            "Failure",
            "AssetMaterialization",
            "AssetObservation",
            "AssetCheckResult",
            "MaterializeResult",
        ):
            found += [
                f"{called}(description={ast.unparse(keyword.value)})"
                for keyword in node.keywords
                if keyword.arg == "description" and _is_foreign(keyword.value)
            ]
    return [f"{file}: {one}" for one in found]


def _is_foreign(node: ast.expr) -> bool:
    """Whether a text may hold what is not ours: it is neither constant, nor `shown`, nor made of counts alone."""
    if isinstance(node, ast.Constant):
        return False
    if isinstance(node, ast.JoinedStr):
        parts = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return any(_is_foreign(part) for part in parts)
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) not in ("shown", "len")
    return True


def test_there_is_no_other_way_to_show_a_text() -> None:
    found: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if file not in OWN | PRINTS | CHILDREN:
            found += _other_ways(ast.parse(path.read_text()), file)
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "print(name)", "click.echo(f'{name}')", "console.print(name)", "Text(name)", "Text.assemble(name)",
        "Table().add_row(name)", "dg.MetadataValue.md(name)", "dg.MetadataValue.text(name)",
        "context.log.info(f'{name}')", "dg.Failure(description=str(error))", "sys.stderr.write(name)",
    ],
)  # fmt: skip
def test_another_way_would_be_found(source: str) -> None:
    assert _other_ways(ast.parse(source), "x.py")


def test_a_nasty_text_is_shown_as_it_is_in_every_destination() -> None:
    plain = shown(NASTY)
    assert plain.startswith("[bold]x [/data/a] [nan, 1.0] \\x1b]0;title\\x07\\x1b[2J\\x9b31m \\u202e")
    assert plain.encode()
    fence = shown(NASTY, "fence", "diff")
    assert fence.startswith("````diff\n")
    assert fence.endswith("\n````")
    assert "<script>" not in shown(NASTY, "html")
    assert "<script>" not in shown(NASTY, "markdown")
    assert shown("$a_$", "plot") == r"\$a_\$"
    assert shown("a b/ü#?.py", "path") == "a%20b/%C3%BC%23%3F.py"
    assert (
        shown("\x1b[31mred\x1b[0m \x1b]0;title\x07 50%\r60%", "stream")
        == "\x1b[31mred\x1b[0m \\x1b]0;title\\x07 50%\r60%"
    )
    assert shown(10**5000).startswith("0x")


@given(st.text(st.characters()))
def test_no_text_brings_a_control_character_or_ends_its_place(text: str) -> None:
    for destination in ("plain", "fence", "code", "markdown", "html", "plot"):
        safe = shown(text, destination)
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", safe
        )
    ticks, *body = shown(text, "fence").split("\n")
    assert body[-1] == ticks
    assert all(ticks not in line for line in body[:-1])


@given(st.recursive(st.none() | st.integers() | st.text(st.characters()), st.lists))
def test_a_document_keeps_its_values(value: object) -> None:
    said = json_text(value)
    assert json.loads(said) == value
    assert said.encode()


@pytest.fixture
def nasty(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "project")
    lab.commit(
        {
            "train.py": "import flor_dagster as flor\n"
            f"flor.arg('path[/x]', {NASTY!r})\n"
            f"flor.log('text [delta=1]', {NASTY!r})\n"
            "flor.log('[/data]', [float('nan'), 1.0])\n"
        }
    )
    lab.train()
    return lab


def flor(lab: Lab, *arguments: str) -> str:
    done = CliRunner().invoke(cli, [*arguments, "--project", str(lab.root)])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_terminal_swallows_no_brackets_and_obeys_no_value(nasty: Lab) -> None:
    for out in (flor(nasty, "view", "text [delta=1]", "[/data]"), flor(nasty, "runs")):
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "[/data/a]" in out
        assert "[bold]x" in out
    assert "text [delta=1]" in flor(nasty, "view", "text [delta=1]", "--limit", "1")
    assert "path[/x]" in flor(nasty, "runs")
    document = json.loads(flor(nasty, "view", "text [delta=1]", "--json"))
    assert document["rows"][0]["text [delta=1]"] == NASTY
