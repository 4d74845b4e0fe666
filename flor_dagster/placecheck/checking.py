"""Compare the place of a statement in an old version with where it stands in the newest."""

from __future__ import annotations

from flor_dagster.placecheck.model import PlaceVerdict, Sources, Spot


def check_place(new: Sources, old: Sources, placed: Sources, statement: Spot, place: Spot) -> PlaceVerdict:
    """Return what is to be thought of `place`, the statement's place in `placed`.

    Args:
        new: The newest version, in which `statement` stands.
        old: The old version as it was recorded.
        placed: The old version with the added lines.
        statement: The statement in the newest version.
        place: The statement in the old version with the added lines.
    """
    if place.file not in placed or statement.file not in new:
        return PlaceVerdict("likely", ("a file that the statement stands in cannot be read",))
    if place.file in old and _added_only(old[place.file], placed[place.file]):
        return PlaceVerdict("likely", ("nothing confirms this place",))
    return PlaceVerdict("contradicted", ("more than added lines has changed",))


def _added_only(old: str, placed: str) -> bool:
    lines = iter(placed.splitlines(keepends=True))
    return all(any(line == candidate for candidate in lines) for line in old.splitlines(keepends=True))
