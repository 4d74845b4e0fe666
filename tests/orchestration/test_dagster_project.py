"""A project is said once, and what is said wrongly is refused with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox

from flor_dagster.errors import NoRepositoryError, SourceSyntaxError
from flor_dagster.orchestration import (
    DagsterFlorTranslator,
    FlorProject,
    FlorResource,
    FlorTranslatorData,
    ProjectError,
    build_flor_asset_specs,
    build_flor_definitions,
    build_runs_spec,
)
from tests.orchestration import toy_project
from tests.orchestration.conftest import Toy


@pytest.mark.parametrize("name", ["", "1st", "my-project", "a b", "a/b"])
def test_a_name_that_can_not_name_jobs_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="letters, digits and underscores"):
        FlorProject(name, repo=tmp_path)


@pytest.mark.parametrize("entry", ["train", "/abs/train.py", "../train.py", "train.ipynb"])
def test_an_entry_point_is_a_script_inside_the_repository(entry: str, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="inside the repository"):
        FlorProject("toy", repo=tmp_path, entrypoints=[entry])


def test_one_entry_point_as_a_text_is_a_mistake_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"entrypoints=\['train.py'\]"):
        FlorProject("toy", repo=tmp_path, entrypoints="train.py")


def test_no_folder_and_no_repository_are_said(tmp_path: Path) -> None:
    with pytest.raises(NoRepositoryError, match="No folder"):
        FlorProject("toy", repo=tmp_path / "nothing")
    with pytest.raises(NoRepositoryError, match="no git repository"):
        FlorProject("toy", repo=tmp_path).workspace()


def test_a_relative_repository_counts_from_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "here" / "repo").mkdir(parents=True)
    (tmp_path / "here" / "defs.py").write_text(
        "import flor_dagster as flor\nprint(flor.FlorProject('toy', repo='repo').root)\n"
    )
    found = subprocess.run(
        [sys.executable, str(tmp_path / "here" / "defs.py")],
        cwd=tmp_path, env=toy_project.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "here" / "repo")


def test_a_folder_inside_the_repository_means_the_repository(project: FlorProject) -> None:
    inside = project.root / "inside"
    inside.mkdir(exist_ok=True)
    assert FlorProject("toy", repo=inside).root == project.root


def test_two_projects_share_no_key(project: FlorProject, tmp_path: Path) -> None:
    other = FlorProject("other", repo=project.root, entrypoints=["train.py"])
    merged = dg.Definitions.merge(build_flor_definitions(project), build_flor_definitions(other))
    dg.Definitions.validate_loadable(merged)
    keys = {spec.key.to_user_string() for spec in merged.resolve_all_asset_specs()}
    assert {"toy/runs", "other/runs", "toy/hindsight", "other/hindsight"} <= keys


def test_the_assets_are_in_one_lineage(project: FlorProject) -> None:
    specs = {spec.key.path[-1]: spec for spec in build_flor_asset_specs(project)}
    assert list(specs) == ["runs", "hindsight", "log_view", "log_query"]
    upstream = {name: {dep.asset_key.path[-1] for dep in spec.deps} for name, spec in specs.items()}
    assert upstream == {
        "runs": set(), "hindsight": {"runs"}, "log_view": {"runs", "hindsight"}, "log_query": {"log_view"},
    }  # fmt: skip
    assert all(spec.description and spec.group_name == "toy" for spec in specs.values())
    assert build_runs_spec(project) == specs["runs"]


class Renaming(DagsterFlorTranslator):
    def get_asset_spec(self, data: FlorTranslatorData) -> dg.AssetSpec:
        return data.spec.replace_attributes(
            key=data.spec.key.with_prefix("ml"), group_name="training", owners=["team:ml"]
        )


def test_a_translator_renames_everywhere(project: FlorProject, tmp_path: Path) -> None:
    definitions = build_flor_definitions(project, translator=Renaming())
    dg.Definitions.validate_loadable(definitions)
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    assert set(specs) == {"ml/toy/runs", "ml/toy/hindsight", "ml/toy/log_view", "ml/toy/log_query"}
    assert all(spec.group_name == "training" and spec.owners == ["team:ml"] for spec in specs.values())
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance, definitions)
        toy.hindsight, toy.runs = dg.AssetKey(["ml", "toy", "hindsight"]), dg.AssetKey(["ml", "toy", "runs"])
        runs, _ = toy.open_questions()
        assert toy.event(toy.runs, runs[0])
        assert toy.ask([runs[0]], ["gap"]).success
        assert toy.cell(runs[0], "gap")
        assert definitions.resolve_job_def("toy_log_view").execute_in_process(instance=instance).success


def test_the_resource_opens_the_workspace_in_an_asset_of_ones_own(project: FlorProject) -> None:
    @dg.asset
    def report(flor: FlorResource) -> int:
        with flor.workspace() as workspace:
            workspace.sync()
            return len(workspace.runs())

    result = dg.materialize([report], resources={"flor": FlorResource.of(project)})
    assert result.output_for_node("report") == 3


def test_a_link_leads_to_the_line_where_the_repository_has_an_address(
    project: FlorProject, tmp_path: Path
) -> None:
    linked = FlorProject(
        "toy", repo=project.root, entrypoints=["train.py"], remote_url="https://example.org/toy/"
    )
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(linked, instance)
        runs, _ = toy.open_questions()
        event = toy.event(toy.runs, runs[0])
        assert str(event.metadata["commit"].value).startswith("https://example.org/toy/commit/")
        assert str(event.metadata["entry point"].value).endswith("/train.py")


def test_definitions_at_the_top_load_without_and_with_a_demo(tmp_path: Path) -> None:
    code = "import definitions as d; print(sorted(s.key.to_user_string() for s in d.defs.resolve_all_asset_specs()))"

    def load(demo: Path) -> str:
        environment = {**toy_project.environment(), "FLOR_DEMO": str(demo)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=toy_project.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert "run_make_demo" in load(tmp_path / "none")
    assert "digits/hindsight" in load(toy_project.make_project(tmp_path / "demo"))


def test_the_component_is_scaffolded_and_builds_the_same(folder: Path, tmp_path: Path) -> None:
    from flor_dagster.orchestration.components import FlorProjectComponent

    component = FlorProjectComponent(
        name="toy", repo=str(folder), entrypoints=["train.py"], hindsight_cron="0 2 * * *"
    )
    relative = FlorProjectComponent(name="toy", repo=os.path.relpath(folder, tmp_path))
    assert relative.project(tmp_path).root == folder
    for name, field in FlorProjectComponent.model_fields.items():
        assert field.description, name
    definitions = component.build_defs(dg.ComponentTree.for_test().load_context)
    dg.Definitions.validate_loadable(definitions)
    assert definitions.resolve_schedule_def("toy_hindsight_schedule")


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_scaffolded_file_loads() -> None:
    from flor_dagster.orchestration.components import FlorProjectComponent

    with create_defs_folder_sandbox(project_name="sandbox") as sandbox:
        place = sandbox.scaffold_component(component_cls=FlorProjectComponent, defs_path="digits")
        written = (place / "defs.yaml").read_text()
        assert "name: digits" in written
        assert "repo: '{{ context.project_root }}'" in written
        with sandbox.load_component_and_build_defs(defs_path=place) as (component, definitions):
            assert isinstance(component, FlorProjectComponent)
            keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
            assert {"digits/runs", "digits/hindsight", "digits/log_view", "digits/log_query"} <= keys


def test_a_project_without_training_runs_is_quiet(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    toy_project.git(folder, "init", "-q", "-b", "main")
    toy_project.commit(folder, "never trained", train=toy_project.NEWEST)
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        assert toy.open_questions() == ([], [])
        assert toy.tick("log_view_refresh").skip_message == "no training run yet"
        job = toy.definitions.resolve_job_def("toy_log_view")
        assert job.execute_in_process(instance=instance).success


def test_a_syntax_error_in_the_newest_script_fails_the_tick_with_file_and_line(tmp_path: Path) -> None:
    folder = toy_project.make_project(tmp_path / "toy")
    toy_project.commit(folder, "broken", train=toy_project.NEWEST + "def (:\n")
    project = FlorProject("toy", repo=folder, entrypoints=["train.py"])
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        toy = Toy(project, instance)
        with pytest.raises(SourceSyntaxError, match=r"train.py.*line 22"):
            toy.repository.get_sensor_def("toy_new_statements")(
                dg.build_sensor_context(instance, repository_def=toy.repository)
            )
        toy.tick("recorded_runs")
        assert len(toy.keys("runs")) == 3, "training runs arrive all the same"
