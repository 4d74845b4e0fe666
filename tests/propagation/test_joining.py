"""Files that are joined keep their lines, whatever form their imports have."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.propagation import propagate_tree
from flor_dagster.propagation.joining import join

MODEL = "class A:\n    pass\n\n\ndef make(n):\n    return n\n\n\nrate = 0.1\n"
FORMS = {
    "one name": "from model import A\n",
    "several names": "from model import A, make, rate\n",
    "aliases": "from model import A as Model, make as build\n",
    "parentheses": "from model import (A, make)\n",
    "parentheses over lines": "from model import (\n    A,\n    make,\n)\n",
    "parentheses with comments": "from model import (  # these\n    A,  # first\n    make\n)  # done\n",
    "closing on the last name's line": "from model import (A,\n    make)\n",
    "backslash": "from model import A, \\\n    make\n",
    "semicolon behind": "from model import A, make; k = 1\n",
    "semicolon before": "k = 1; from model import A, make\n",
    "semicolons around, over lines": "k = 1; from model import (A,\n    make); n = 2\n",
    "semicolon behind a backslash": "from model import A, \\\n    make; n = 2\n",
    "letters of several bytes before": 'k = "é€"; from model import A, make as build; n = build(k)\n',
    "comment behind": "from model import A, make  # noqa\n",
    "two of them in a row": "from model import A\nfrom model import make\nimport math\n",
    "all of it": "from model import *\n",
    "the module": "import model\nm = model.make(1)\n",
    "the module under another name": "import model as zoo\nm = zoo.make(zoo.rate)\n",
    "in a function": "def load():\n    from model import A, make\n    return make(A)\n",
    "on a function's own line": "def load(): from model import A, make\n",
    "behind an if": "if True: from model import A, make\n",
    "in a try": "try:\n    from model import A, make\nexcept ImportError:\n    from model import make\n    A = None\n",
    "last line without an end": "x = 0\nfrom model import A, make",
    "other line ends": "from model import A, make\r\nimport math\r\n",
    "with what is future": "from __future__ import annotations\nfrom model import A, make\n",
    "in a string": "from model import make as build\nk = 1\ntext = f'{build(k)} {k}'\n",
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_of_import_keeps_all_lines_of_a_joined_file(form: str) -> None:
    text = FORMS[form]
    rest = "" if text.endswith("make") else "y = 2\nfor i in range(3):\n    z = i\n"
    joined = join({"model.py": MODEL, "train.py": text + rest}, ["model.py", "train.py"])
    module = ast.parse(joined.text)
    mine = [s.lineno for s in ast.walk(ast.parse(text + rest)) if isinstance(s, ast.stmt)]
    theirs = [joined.where(s.lineno) for s in ast.walk(module) if isinstance(s, ast.stmt)]
    assert sorted(mine) == sorted(line for path, line in theirs if path == "train.py")
    assert joined.where(joined.line("train.py", 1)) == ("train.py", 1)
    assert [line for path, line in theirs if path == "model.py"] == [
        s.lineno for s in ast.walk(ast.parse(MODEL)) if isinstance(s, ast.stmt)
    ]
    for number in range(1, (text + rest).count("\n") + 1):
        assert joined.where(joined.line("train.py", number)) == ("train.py", number)


STEPS = """\
import flor_dagster as flor


def fit_fold(model, loader, opt):
    model.train()
    for data, labels in flor.loop("batch", loader):
        opt.zero_grad()
        loss = criterion(model(data), labels)
        loss.backward()
        flor.log("gnorm", model.weight.grad.norm())
        opt.step()


def score_fold(model, loader):
    return [model(data) for data, labels in loader]
"""
LOOP = """

model, opt = build()
for epoch in flor.loop("epoch", range(3)):
    fit_fold(model, train_loader, opt)
    shown = score_fold(model, valid_loader)
    flor.log("score", shown)
    print(epoch)
"""
IMPORTS = {
    "one line": "from steps import fit_fold, score_fold\n",
    "each its own": "from steps import fit_fold\nfrom steps import score_fold\n",
    "over lines": "from steps import (\n    fit_fold,\n    score_fold,\n)\n",
    "backslash": "from steps import fit_fold, \\\n    score_fold\n",
    "semicolon": "from steps import fit_fold, score_fold; import sys\n",
}


@pytest.mark.parametrize("form", sorted(IMPORTS))
def test_statements_of_a_file_that_was_split_go_to_their_lines_together(form: str) -> None:
    head = "import flor_dagster as flor\n"
    new = {"steps.py": STEPS, "train.py": head + IMPORTS[form] + "import math\n" + LOOP}
    old_text = "import math\n" + STEPS.replace('        flor.log("gnorm", model.weight.grad.norm())\n', "")
    old = {"train.py": old_text + LOOP.replace('    flor.log("score", shown)\n', "")}
    asked = {
        path: [n for n, line in enumerate(text.split("\n"), 1) if "flor.log(" in line]
        for path, text in new.items()
    }
    result = propagate_tree(new, old, asked)
    assert not result.refusals, [r.refusal.sentence for r in result.refusals]
    expected = ("import math\n" + STEPS + LOOP).split("\n")
    assert result.files["train.py"].source.split("\n") == expected


def test_one_statement_that_has_no_text_to_stand_in_does_not_take_the_others_with_it() -> None:
    """A file that imports itself in a circle, a broken file beside it: what can be placed is placed."""
    new = {
        "steps.py": STEPS,
        "train.py": "import flor_dagster as flor\nfrom steps import fit_fold, score_fold\n" + LOOP,
        "odd.py": "from steps import fit_fold, \\\n",
    }
    old = {
        "train.py": new["train.py"].replace('    flor.log("score", shown)\n', ""),
        "steps.py": "def other(:\n",
        "odd.py": "(",
    }
    asked = {"steps.py": [10], "train.py": [9]}
    result = propagate_tree(new, old, asked)
    assert [p.path for p in result.placements] == ["train.py"]
    assert [r.path for r in result.refusals] == ["steps.py"]
