"""Which files would not come back as they lie on disk: git converts line ends and encodings, and runs filters.

What a training run executed are the bytes on disk. git stores a converted form, and a checkout converts it again; where
the two conversions are not each other's inverse (a CRLF file under `text`, mixed line ends, a filter that drops
something), the version is approximate, and these are the paths.
"""

from __future__ import annotations

import filecmp
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flor_dagster.versions.private_index import CONVERTED, joined, lstat, megabytes
from flor_dagster.versions.settings import MEGABYTE

if TYPE_CHECKING:
    from flor_dagster.versions.private_index import PrivateIndex
    from flor_dagster.versions.repository import Entry

_ATTRIBUTES = ("text", "crlf", "eol", "filter", "working-tree-encoding", "ident")
_OFF = frozenset(["unspecified", "unset"])
# git LFS stores the digest of the bytes: what it gives back is them, or an error.
_FAITHFUL_FILTERS = frozenset(["lfs"])
MAX_CHECKED_BYTES = 64 * MEGABYTE
"""Converted files are written out once more to be compared, up to this many bytes together."""


def not_given_back(index: PrivateIndex, entries: list[Entry]) -> dict[str, str]:
    """Path to reason, of the files of an up-to-date index that a checkout would write with other bytes.

    Where no conversion is configured, which is the usual case, this costs one git command.
    """
    settings = _settings(index)
    if not _conversions_are_possible(index, entries, settings):
        return {}
    files = {entry.path: entry for entry in entries if entry.mode.startswith("100")}
    by_size, by_content = _candidates(index, files, settings)
    return _changed_sizes(index, by_size) | _changed_contents(index, by_content)


def _settings(index: PrivateIndex) -> dict[str, str]:
    listed = index.git("config", "-z", "--get-regexp", r"^core\.(autocrlf|eol|attributesfile)$", check=False)
    found: dict[str, str] = {}
    for row in listed.paths:
        key, _, value = row.partition("\n")
        found[key.lower()] = value.lower()
    return found


def _conversions_are_possible(index: PrivateIndex, entries: list[Entry], settings: dict[str, str]) -> bool:
    if (
        settings.get("core.autocrlf", "false") not in ("false", "no", "0", "off")
        or "core.attributesfile" in settings
    ):
        return True
    if any(entry.path.rpartition("/")[2] == ".gitattributes" for entry in entries):
        return True
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118 - a home may be unset
    places = (
        index.repository.common_dir / "info/attributes",
        Path(config) / "git/attributes",
        Path("/etc/gitattributes"),
    )
    return any(place.is_file() for place in places)


def _candidates(
    index: PrivateIndex, files: dict[str, Entry], settings: dict[str, str]
) -> tuple[list[Entry], list[Entry]]:
    """The files that git converts: those that only lose carriage returns, and the others."""
    answer = index.git("check-attr", "-z", "--stdin", *_ATTRIBUTES, stdin=joined(list(files)))
    attributes: dict[str, dict[str, str]] = {}
    fields = answer.stdout.split(b"\0")
    for name, key, value in zip(fields[0::3], fields[1::3], fields[2::3], strict=False):
        attributes.setdefault(os.fsdecode(name), {})[key.decode()] = value.decode(errors="replace")
    automatic = settings.get("core.autocrlf", "false") not in ("false", "no", "0", "off")
    makes_crlf = (
        settings.get("core.autocrlf") in ("true", "yes", "1", "on") or settings.get("core.eol") == "crlf"
    )
    by_size: list[Entry] = []
    by_content: list[Entry] = []
    for name, found in attributes.items():
        if name not in files:
            continue
        text = found["text"] if found["text"] != "unspecified" else found["crlf"]
        filtered = found["filter"] not in _OFF and found["filter"] not in _FAITHFUL_FILTERS
        if filtered or found["working-tree-encoding"] not in _OFF or found["ident"] == "set":
            by_content.append(files[name])
        elif text == "unset" or (text == "unspecified" and found["eol"] == "unspecified" and not automatic):
            continue
        elif found["eol"] == "crlf" or (found["eol"] == "unspecified" and makes_crlf):
            by_content.append(files[name])
        else:
            by_size.append(files[name])
    return by_size, by_content


def _changed_sizes(index: PrivateIndex, entries: list[Entry]) -> dict[str, str]:
    """Where a checkout converts nothing, all that can have been lost are carriage returns: the sizes differ."""
    if not entries:
        return {}
    asked = "".join(f"{entry.id}\n" for entry in entries).encode()
    answer = index.git("cat-file", "--batch-check=%(objectsize)", stdin=asked, check=False)
    found: dict[str, str] = {}
    for entry, size in zip(entries, answer.stdout.split(b"\n"), strict=False):
        status = lstat(index.path(entry.path))
        if (
            status is not None
            and stat.S_ISREG(status.st_mode)
            and size.isdigit()
            and int(size) != status.st_size
        ):
            found[entry.path] = "git stores its CRLF line ends as LF, and gives LF back"
    return found


def _changed_contents(index: PrivateIndex, entries: list[Entry]) -> dict[str, str]:
    """What a checkout would write, written beside the index, is compared with what lies there."""
    found: dict[str, str] = {}
    checked: list[Entry] = []
    budget = MAX_CHECKED_BYTES
    for entry in entries:
        status = lstat(index.path(entry.path))
        if status is None or not stat.S_ISREG(status.st_mode):
            continue
        budget -= status.st_size
        if budget < 0:
            found[entry.path] = (
                f"git converts it; not compared, since such files are more than {megabytes(MAX_CHECKED_BYTES)}"
            )
        else:
            checked.append(entry)
    if not checked:
        return found
    with tempfile.TemporaryDirectory(dir=index.file.parent, prefix="given-back-") as scratch:
        names = joined([entry.path for entry in checked])
        index.git("checkout-index", "-z", "--stdin", f"--prefix={scratch}/", stdin=names, check=False)
        for entry in checked:
            try:
                same = filecmp.cmp(index.path(entry.path), Path(scratch) / entry.path, shallow=False)
            except OSError:
                same = False
            if not same:
                found[entry.path] = CONVERTED
    return found
