"""What ran are the bytes on disk: a version gives them back, or says that it does not."""

import pytest

from flor_dagster.versions import Clone
from flor_dagster.versions.snapshot import snapshot

CASES = {
    # settings, attributes, files, the files that do not come back
    "nothing is configured": ({}, "", {"a.py": b"a\r\nb\n"}, ()),
    "autocrlf=true gives CRLF back": ({"core.autocrlf": "true"}, "", {"a.py": b"a\r\nb\r\n"}, ()),
    "autocrlf=true and LF on disk": ({"core.autocrlf": "true"}, "", {"a.py": b"a\nb\n"}, ("a.py",)),
    "autocrlf=input and LF": ({"core.autocrlf": "input"}, "", {"a.py": b"a\nb\n"}, ()),
    "autocrlf=input and CRLF": ({"core.autocrlf": "input"}, "", {"a.py": b"a\r\nb\r\n"}, ("a.py",)),
    "text=auto and LF": ({}, "* text=auto\n", {"a.py": b"a\nb\n", "b.bin": b"\0\r\n"}, ()),
    "text=auto and CRLF": ({}, "* text=auto\n", {"a.py": b"a\r\nb\r\n", "b.py": b"b\n"}, ("a.py",)),
    "eol=crlf and CRLF": ({}, "*.py text eol=crlf\n", {"a.py": b"a\r\nb\r\n"}, ()),
    "eol=crlf and mixed": ({}, "*.py text eol=crlf\n", {"a.py": b"a\r\nb\n"}, ("a.py",)),
    "core.eol=crlf": ({"core.eol": "crlf"}, "*.py text\n", {"a.py": b"a\r\nb\n", "b.py": b"b\r\n"}, ("a.py",)),
    "-text": ({"core.autocrlf": "true"}, "*.py -text\n.gitattributes -text\n", {"a.py": b"a\r\nb\n"}, ()),
    "an encoding": ({}, "*.py working-tree-encoding=UTF-16LE\n", {"a.py": "grün\n".encode("utf-16le")}, ()),
    "ident": ({}, "*.py ident\n", {"a.py": b"# $Id: mine $\n"}, ("a.py",)),
    "a faithful filter": (
        {"filter.rot.clean": "tr a-z n-za-m", "filter.rot.smudge": "tr a-z n-za-m"},
        "*.py filter=rot\n", {"a.py": b"abc\n"}, (),
    ),
    "a filter that drops": ({"filter.drop.clean": "grep -v secret"}, "*.py filter=drop\n", {"a.py": b"a\nsecret\n"}, ("a.py",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("committed", [False, True])
def test_converted_files_come_back_or_are_named(make_repo, tmp_path, case, committed):
    settings, attributes, files, lossy = CASES[case]
    repo = make_repo()
    for key, value in settings.items():
        repo.git("config", key, value)
    if attributes:
        repo.write(
            ".gitattributes",
            attributes.replace("\n", "\r\n") if settings.get("core.autocrlf") == "true" and "-text" not in attributes
            else attributes,
        )  # fmt: skip
    for name, content in files.items():
        repo.write(name, content)
    if committed:
        repo.git("-c", "core.safecrlf=false", "add", "-A")
        repo.git("commit", "-qm", "all")
    before = repo.fingerprint()
    version = snapshot(repo.root)
    assert repo.fingerprint() == before
    assert tuple(path for path, _ in version.approximate) == lossy
    checkout = Clone.open(repo.root, tmp_path / "cache").checkout(version.commit, tmp_path / "out")
    for name, content in files.items():
        assert ((checkout.path / name).read_bytes() == content) == (name not in lossy)


def test_a_hidden_secret_that_stays_as_committed_makes_the_version_approximate(repo):
    repo.write("secrets.yaml", "committed: 1\n")
    repo.commit("secrets")
    repo.git("update-index", "--skip-worktree", "secrets.yaml")
    repo.write("secrets.yaml", "token: real\n")
    assert [path for path, _ in snapshot(repo.root).approximate] == ["secrets.yaml"]
