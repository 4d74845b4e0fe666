"""A project is more than one file: files are renamed, functions move, code is taken out of a file and put back."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.errors import PropagationError, SourceSyntaxError
from flor_dagster.propagation import propagate_tree
from tests.propagation.project_lab import ONE_FILE, SPLIT, STEPS, line_after, place, with_lines

ONE = {"train.py": ONE_FILE}
TWO = {"train.py": SPLIT, "steps.py": STEPS}
NORM = 'flor.log("norm", torch.norm(output))'


def test_a_statement_in_an_extracted_function_goes_to_where_its_code_was_before() -> None:
    new = {**TWO, "steps.py": "import flor_dagster as flor\n" + STEPS}
    result = place(new, ONE, "steps.py", "loss.backward()", NORM)
    assert not result.refusals
    assert [(p.path, p.old_path) for p in result.placements] == [("steps.py", "train.py")]
    assert line_after(result, "train.py", NORM) == "loss.backward()"


def test_a_statement_goes_into_the_file_that_its_code_was_in_once() -> None:
    result = place(ONE, TWO, "train.py", "loss.backward()", NORM)
    assert not result.refusals
    (placed,) = result.placements
    assert placed.old_path == "steps.py"
    assert line_after(result, "steps.py", NORM) == "loss.backward()"
    assert "flor" in placed.placement.carried
    assert result.files["steps.py"].source.startswith("import torch\nimport flor_dagster as flor\n")


@pytest.mark.parametrize("way", ["into its file", "out of its file"])
def test_a_function_that_moved_between_files_is_found(way: str) -> None:
    statement = 'flor.log("right", right)'
    if way == "into its file":
        result = place(ONE, TWO, "train.py", "right += (model", statement)
        assert [p.old_path for p in result.placements] == ["steps.py"]
    else:
        new = {**TWO, "steps.py": "import flor_dagster as flor\n" + STEPS}
        result = place(new, ONE, "steps.py", "right += (model", statement)
        assert [p.old_path for p in result.placements] == ["train.py"]
    assert not result.refusals


def test_a_renamed_file_is_found_by_the_history() -> None:
    result = place(
        {"main.py": ONE_FILE}, ONE, "main.py", "loss.backward()", NORM, renames={"main.py": "train.py"}
    )
    assert [(p.path, p.old_path) for p in result.placements] == [("main.py", "train.py")]


def test_a_renamed_file_is_found_by_its_content() -> None:
    other = {"prepare.py": "import os\n\nfor name in os.listdir('data'):\n    print(name)\n"}
    result = place({"src/main.py": ONE_FILE}, {**ONE, **other}, "src/main.py", "loss.backward()", NORM)
    assert [(p.path, p.old_path) for p in result.placements] == [("src/main.py", "train.py")]


def test_an_entry_point_of_another_name_is_the_entry_point() -> None:
    old = (
        ONE_FILE.replace("model", "net")
        .replace("batch", "item")
        .replace("optimizer", "opt")
        .replace("score", "result")
    )
    statement = 'flor.log("norm", loss)'
    entry = ("main.py", "train.py")
    result = place(
        {"main.py": ONE_FILE}, {"train.py": old}, "main.py", "loss.backward()", statement, entry_points=entry
    )
    assert [p.old_path for p in result.placements] == ["train.py"]


def test_a_file_without_a_counterpart_is_refused_in_words() -> None:
    new = {**ONE, "extra.py": "import flor_dagster as flor\n\n\ndef shown(x):\n    y = x + 1\n    return y\n"}
    result = place(new, ONE, "extra.py", "y = x + 1", 'flor.log("y", y)')
    (refused,) = result.refusals
    assert refused.refusal.kind == "no-function"
    assert "extra.py" in refused.refusal.sentence
    assert "`shown`" in refused.refusal.sentence
    assert not result.files


def test_what_is_in_two_files_alike_is_refused_unless_one_is_loaded() -> None:
    old = {"a.py": STEPS, "b.py": STEPS, "train.py": "from b import train_step\n"}
    new = {"steps.py": "import flor_dagster as flor\n" + STEPS + "\n\nEXTRA = 1\n" * 40, "train.py": SPLIT}
    result = place(new, old, "steps.py", "loss.backward()", NORM)
    (refused,) = result.refusals
    assert refused.refusal.kind == "weak-place"
    assert "a.py and b.py" in refused.refusal.sentence
    result = place(new, old, "steps.py", "loss.backward()", NORM, entry_points=("train.py", "train.py"))
    assert [p.old_path for p in result.placements] == ["b.py"]


def test_statements_of_several_files_are_placed_at_once_and_keep_their_lines() -> None:
    new_train, first = with_lines(SPLIT, "loss = train_step", 'flor.log("a", loss)')
    new_steps, second = with_lines("import flor_dagster as flor\n" + STEPS, "loss.backward()", NORM)
    new = {"train.py": new_train, "steps.py": new_steps}
    result = propagate_tree(new, ONE, {"train.py": [first], "steps.py": [second]})
    assert not result.refusals
    (patched,) = result.files.values()
    lines = patched.source.split("\n")
    for placed in result.placements:
        name = placed.placement.statement.name
        assert f'flor.log("{name}"' in lines[placed.placement.lines[0] - 1]
    kept = [line for n, line in enumerate(lines, 1) if n not in patched.added]
    assert "\n".join(kept) == ONE_FILE


def test_a_helper_of_another_file_that_the_old_version_lacks_travels_along() -> None:
    tools = "def doubled(x):\n    return 2 * x\n"
    new = {"train.py": "from tools import doubled\n" + ONE_FILE, "tools.py": tools}
    result = place(
        new, {**ONE, "tools.py": "WIDTH = 3\n"}, "train.py", "loss.backward()", 'flor.log("d", doubled(loss))'
    )
    assert not result.refusals
    (placed,) = result.placements
    assert "doubled" in placed.placement.carried
    assert "def doubled" in result.files["train.py"].source
    assert "from tools import doubled" not in result.files["train.py"].source


def test_an_import_of_the_project_that_the_old_version_has_not_is_refused() -> None:
    tools = "import torch\n\n\ndef doubled(x):\n    torch.manual_seed(0)\n    return 2 * x\n"
    new = {"train.py": "from tools import doubled\n" + ONE_FILE, "tools.py": tools}
    result = place(
        new, {**ONE, "tools.py": "WIDTH = 3\n"}, "train.py", "loss.backward()", 'flor.log("d", doubled(loss))'
    )
    (refused,) = result.refusals
    assert refused.refusal.missing == "doubled"
    assert "tools.py" in refused.refusal.sentence
    assert not result.files


def test_an_import_of_the_project_that_the_old_version_has_comes_along() -> None:
    tools = "def doubled(x):\n    return 2 * x\n"
    new = {"train.py": "from tools import doubled\n" + ONE_FILE, "tools.py": tools}
    result = place(
        new, {**ONE, "tools.py": tools}, "train.py", "loss.backward()", 'flor.log("d", doubled(loss))'
    )
    assert not result.refusals
    assert "from tools import doubled" in result.files["train.py"].source


def test_an_import_that_would_run_a_script_is_refused() -> None:
    tools = "def doubled(x):\n    return 2 * x\n\n\nprint(doubled(4))\nstart_all_over()\n"
    new = {"train.py": "from tools import doubled\n" + ONE_FILE, "tools.py": tools}
    result = place(
        new, {**ONE, "tools.py": tools}, "train.py", "loss.backward()", 'flor.log("d", doubled(loss))'
    )
    assert not any("from tools" in f.source for f in result.files.values())


def test_a_variable_of_the_same_name_in_another_file_is_not_taken_for_it() -> None:
    steps = STEPS + "\n\nLIMIT = read_limit()\n"
    result = place(
        ONE,
        {"train.py": SPLIT, "steps.py": steps},
        "train.py",
        "right += (model",
        'flor.log("m", right * LIMIT)',
    )
    (refused,) = result.refusals
    assert refused.refusal.kind == "other-definition"
    assert refused.refusal.missing == "LIMIT"


def test_packages_with_relative_imports_are_followed() -> None:
    package = {
        "net/__init__.py": "",
        "net/steps.py": STEPS,
        "net/train.py": SPLIT.replace("from steps import", "from .steps import"),
    }
    result = place(
        {"net/train.py": ONE_FILE, "net/__init__.py": ""}, package, "net/train.py", "loss.backward()", NORM
    )
    assert [p.old_path for p in result.placements] == ["net/steps.py"]


def test_a_module_that_is_used_by_its_name_is_followed() -> None:
    train = SPLIT.replace("from steps import accuracy, train_step", "import steps")
    train = train.replace("train_step(", "steps.train_step(").replace("accuracy(", "steps.accuracy(")
    result = place(ONE, {"train.py": train, "steps.py": STEPS}, "train.py", "loss.backward()", NORM)
    assert [p.old_path for p in result.placements] == ["steps.py"]


def test_a_helper_that_is_called_in_another_named_loop_takes_nothing() -> None:
    once = SPLIT.replace(
        "            loss = train_step(model, optimizer, batch)\n", "            loss = other(batch)\n"
    )
    once = once.replace(
        "        score = accuracy", "        loss = train_step(model, optimizer, 0)\n        score = accuracy"
    )
    new = {**TWO, "steps.py": "import flor_dagster as flor\n" + STEPS}
    result = place(new, {"train.py": once, "steps.py": STEPS}, "steps.py", "loss.backward()", NORM)
    (refused,) = result.refusals
    assert "step" in refused.refusal.sentence
    assert not result.files


def test_untouched_files_are_not_in_the_result() -> None:
    result = place(ONE, {**ONE, "notes.py": "x = 1\n"}, "train.py", "loss.backward()", NORM)
    assert list(result.files) == ["train.py"]


def test_a_missing_file_of_the_new_version_is_an_error() -> None:
    with pytest.raises(PropagationError, match=r"gone\.py"):
        propagate_tree(ONE, ONE, {"gone.py": [1]})


def test_a_new_version_that_is_no_python_is_an_error() -> None:
    with pytest.raises(SourceSyntaxError):
        propagate_tree({"train.py": "def (\n"}, ONE, {"train.py": [1]})


def test_an_old_file_that_is_no_python_is_refused_with_its_line() -> None:
    result = place(ONE, {"train.py": "print 'python 2'\n"}, "train.py", "loss.backward()", NORM)
    (refused,) = result.refusals
    assert refused.refusal.kind == "unsupported-syntax"
    assert "line 1" in refused.refusal.sentence


def test_everything_placed_compiles() -> None:
    for new, old, file in ((ONE, TWO, "train.py"), (TWO, ONE, "train.py")):
        result = place(new, old, file, "score = accuracy", 'flor.log("limit", LIMIT * score)')
        assert not result.refusals
        for patched in result.files.values():
            ast.parse(patched.source)
