"""A project one of whose files was damaged or written by somebody else, and what the commands say of it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HUGE = 10**30
DEEP = "@deep@"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, HUGE, -HUGE, 0.5, float("nan"), float("inf"), "", "x",
    "../../../../tmp/flor-escaped", "/tmp/flor-escaped", "a\0b", "\ud800", "x" * 5000, [], {}, [[]], {"a": 1}, [None] * 50, DEEP,
)  # fmt: skip


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from nodes(inner, (*path, key))


def changed(value: Any, chance: random.Random) -> Any:
    """A JSON value that is another one in one place: a key missing, another type, another number."""
    places = list(nodes(value))
    *way, last = chance.choice(places) or (None,)
    if last is None:
        return chance.choice(VALUES)
    around = value
    for key in way:
        around = around[key]
    how = chance.random()
    if how < 0.25:
        del around[last]
    elif how < 0.4 and isinstance(around, list):
        around.insert(last, chance.choice(VALUES))
    else:
        around[last] = chance.choice(VALUES)
    return value


def text_of(value: Any) -> str:
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)


def by_grammar(data: bytes, chance: random.Random) -> bytes:
    """Lines, or one document, of well-formed JSON that say something odd."""
    lines = data.decode().splitlines(keepends=True)
    number = chance.randrange(len(lines))
    how = chance.random()
    if how < 0.1:
        del lines[number]
    elif how < 0.2:
        lines.insert(chance.randrange(len(lines)), lines[number])
    elif how < 0.25:
        chance.shuffle(lines)
    else:
        try:
            lines[number] = text_of(changed(json.loads(lines[number]), chance)) + "\n"
        except ValueError:
            lines[number] = text_of(chance.choice(VALUES)) + "\n"
    return "".join(lines).encode("utf-8", "surrogatepass")


def by_mutation(data: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut off, put in, or in the place of others."""
    changing = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 3, 20))):
        at = chance.randrange(len(changing) or 1)
        how = chance.random()
        if how < 0.5 and changing:
            changing[at % len(changing)] ^= 1 << chance.randrange(8)
        elif how < 0.7:
            del changing[at:]
        elif how < 0.85:
            changing[at:at] = chance.randbytes(chance.randrange(1, 40))
        else:
            changing[at : at + chance.randrange(1, 40)] = b""
    return bytes(changing)


def gone(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def unreadable_bytes(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00" * 300)


def empty(path: Path) -> None:
    path.write_bytes(b"")


WHOLE: tuple[Callable[[Path], None], ...] = (gone, a_folder, a_link, unreadable_bytes, empty)


def copy_of(project: Path, target: Path) -> Path:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(project, target, symlinks=True)
    return target
