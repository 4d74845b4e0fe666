"""What the documents name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_and_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    for file, name in TEST.findall(text):
        tree = ast.parse((ROOT / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (
            f"{file}::{name}"
        )
    for target in LINK.findall(text):
        assert (document.parent / target).exists(), target


def test_each_sentence_of_the_threat_model_has_a_test() -> None:
    rows = [line for line in (ROOT / "docs/threats.md").read_text().splitlines() if line.startswith("| ")]
    told = [
        line
        for line in rows
        if len(line.strip("|").split(" | ")) == 3 and not line.startswith(("| what", "| ---"))
    ]
    assert len(told) > 10
    assert [line for line in told if not TEST.search(line)] == []
