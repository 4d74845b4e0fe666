"""Texts that are not ours, made safe for where they are shown: names, values, paths, messages, what a program printed.

Every such text goes through `shown`. A value `[/data/a]` is no closing tag of a terminal's markup, a title sequence in a log sets
no title, a backtick in a diff ends no fence. The standard library alone: the recorder's warnings go through it too.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any, Literal

Destination = Literal["plain", "stream", "fence", "code", "markdown", "html", "plot", "path"]
"""Where a text is shown.

`plain`: where text is text: a terminal, a log, a row of metadata. `stream`: the lines of a program that the person started
here, whose colours stay. `fence` and `code`: in Markdown as a block or a span of code. `markdown`: within its prose.
`html`: within an element or an attribute. `plot`: a label of a figure. `path`: a part of a web address's path.
"""

_CONTROLS = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (
        *(code for code in range(32) if chr(code) not in "\t\n"),
        *range(0x7F, 0xA0),
        # Line and paragraph separators, and what turns the direction of text around.
        0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF,
        *range(0xD800, 0xE000),
    )
}  # fmt: skip
_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
_PROSE = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:])")
_TICKS = re.compile("`+")


def shown(text: Any, destination: Destination = "plain", language: str = "") -> str:
    """A text as it can be put where it is shown.

    Args:
        text: whose `str` is shown.
        destination: where.
        language: of a fence.
    """
    # Python writes no decimal number of more than 4,300 digits.
    whole = hex(text) if isinstance(text, int) and text.bit_length() > 10_000 else str(text)
    if destination == "stream":
        parts = _COLOURS.split(whole)
        # A carriage return draws a progress bar anew.
        return "".join(
            p if number % 2 else "\r".join(map(shown, p.split("\r"))) for number, p in enumerate(parts)
        )
    safe = whole.translate(_CONTROLS)
    if destination == "plain":
        return safe
    if destination in ("fence", "code"):
        longest = max((len(found) for found in _TICKS.findall(safe)), default=0)
        if destination == "fence":
            ticks = "`" * max(longest + 1, 3)
            return f"{ticks}{language}\n{safe.rstrip()}\n{ticks}"
        ticks = "`" * (longest + 1)
        room = " " if safe.startswith("`") or safe.endswith("`") else ""
        return f"{ticks}{room}{' '.join(safe.splitlines())}{room}{ticks}"
    if destination == "markdown":
        return _PROSE.sub(r"\\\1", html.escape(" ".join(safe.splitlines()), quote=False))
    if destination == "html":
        return html.escape(safe)
    if destination == "plot":
        return safe.replace("$", r"\$")
    from urllib.parse import quote

    return quote(whole, safe="/", errors="surrogatepass")


def json_text(value: Any) -> str:
    """A JSON document that any terminal and any reader of UTF-8 can be given; its values stay what they are.

    Args:
        value: plain JSON.
    """
    said = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Outside of texts there is nothing to replace but the line ends of the document itself.
    return said.translate({code: f"\\u{code:04x}" for code in _CONTROLS})
