"""A name that is computed is known by what is certain of it."""

from __future__ import annotations

import ast

import pytest

from flor_dagster.computed import fits, is_computed, pattern_of


@pytest.mark.parametrize(
    ("written", "pattern"),
    [
        ('"loss"', "loss"),
        ('f"loss"', "loss"),
        ('f"norm/{k}"', "norm/{}"),
        ('f"{a}{b}/w"', "{}/w"),
        ('f"{x:{width}.2f} of {y}"', "{} of {}"),
        ('"norm/" + k', "norm/{}"),
        ('"norm/" + str(k) + "/mean"', "norm/{}/mean"),
        ('"norm/%s" % k', "norm/{}"),
        ('"%(a)s at 100%% of %-5.2f" % d', "{} at 100% of {}"),
        ('"norm/{}".format(k)', "norm/{}"),
        ('"{0:>3}/{name!r}".format(k, name=n)', "{}/{}"),
        ('"{{x}}/{}".format(k)', "{x}/{}"),
        ('"{".format(k)', "{}"),
        ("name", "{}"),
        ("names[i]", "{}"),
        ("3", None),
    ],
)
def test_a_pattern_keeps_what_is_written_and_leaves_holes_for_the_rest(
    written: str, pattern: str | None
) -> None:
    assert pattern_of(ast.parse(written, mode="eval").body) == pattern


@pytest.mark.parametrize(
    ("pattern", "name", "may"),
    [
        ("loss", "loss", True),
        ("loss", "loss2", False),
        ("norm/{}", "norm/a", True),
        ("norm/{}", "norm/", True),
        ("norm/{}", "norm", False),
        ("norm/{}", "a norm/a", False),
        ("{}/w", "a\nb/w", True),
        ("a.{}", "ab", False),
        ("{}", "", True),
    ],
)
def test_a_pattern_fits_the_names_that_it_may_give(pattern: str, name: str, may: bool) -> None:
    assert fits(pattern, name) is may
    assert is_computed(pattern) == ("{}" in pattern)
