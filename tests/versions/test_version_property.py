"""For any tree of names, modes, links and ignores: the version's tree is the files on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flor_dagster.versions.snapshot import snapshot
from tests.versions.conftest import UserRepo

parts = st.text(st.sampled_from(list("ab é\n\"'*[:-~#!\\")), min_size=1, max_size=4).filter(
    lambda name: name not in (".", "..") and not name.endswith("~") and not name.startswith(":(")
)
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
contents = st.binary(max_size=40)
things = st.one_of(
    st.tuples(st.just("file"), contents),
    st.tuples(st.just("program"), contents),
    st.tuples(st.just("link"), paths.map(str.encode)),
)
trees = st.dictionaries(paths, things, max_size=8)


def lay(root: Path, tree: dict[str, tuple[str, bytes]]) -> None:
    """Write what fits: a path under a file or link that was written before is left out."""
    for name, (kind, content) in tree.items():
        place = root / name
        ancestors = [root / Path(*Path(name).parts[:n]) for n in range(1, len(Path(name).parts))]
        if os.path.lexists(place) or any(
            os.path.lexists(a) and (a.is_symlink() or not a.is_dir()) for a in ancestors
        ):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            place.symlink_to(os.fsdecode(content))
        else:
            place.write_bytes(content)
            place.chmod(0o755 if kind == "program" else 0o644)


def on_disk(root: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != ".git"]
        for name in files + [name for name in folders if (Path(folder) / name).is_symlink()]:
            file = Path(folder) / name
            mode = "120000" if file.is_symlink() else "100755" if os.access(file, os.X_OK) else "100644"
            found[str(file.relative_to(root))] = (
                mode,
                os.fsencode(os.readlink(file)) if file.is_symlink() else file.read_bytes(),
            )
    return found


@given(committed=trees, staged=trees, laid=trees, ignored=st.sets(st.sampled_from(["a", "b", "*é*"])))
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_tree_of_a_version_is_the_files_on_disk(tmp_path_factory, committed, staged, laid, ignored):
    repo = UserRepo(tmp_path_factory.mktemp("tree"))
    repo.git("init", "-q")
    lay(repo.root, committed)
    repo.git("add", "-A")
    repo.git("commit", "-q", "--allow-empty", "-m", "one")
    for tree in (staged, laid):
        for child in repo.root.iterdir():
            if child.name != ".git":
                shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        lay(repo.root, tree)
        if tree is staged:
            repo.git("add", "-A")
    (repo.root / ".git/info").mkdir(exist_ok=True)
    (repo.root / ".git/info/exclude").write_text("".join(f"{pattern}\n" for pattern in sorted(ignored)))
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert repo.fingerprint() == before
    left_out = dict(version.excluded)
    disk = {
        name: value
        for name, value in on_disk(repo.root).items()
        if not any(name == path or (path.endswith("/") and name.startswith(path)) for path in left_out)
    }
    assert repo.tree(version.commit) == disk
    assert set(left_out.values()) <= {"ignored by git"}
    assert bool(ignored) or not left_out
    assert snapshot(repo.root).commit == version.commit
