"""Where a function is called from, if that is one place: code that moved into a function still runs there."""

from __future__ import annotations

from flor_dagster.propagation.tree import Node, Tree


def unique_call_sites(tree: Tree) -> dict[int, Node]:
    """Map functions (by number) to the only statement that mentions them, where that is a call.

    A function that is mentioned twice, or handed on as a value, has no single place. Methods count where they are
    called on `self` or on an object that the file makes of their class, and no other class of the file has one of that
    name.
    """
    functions: dict[str, list[Node]] = {}
    methods: dict[str, list[Node]] = {}
    for node in tree.nodes:
        if node.kind == "def" and node.scope is not None:
            (methods if node.scope.kind == "class" else functions).setdefault(node.name, []).append(node)
    mentions: dict[tuple[str, bool], list[tuple[Node, str]]] = {}
    for node in tree.nodes:
        for name, is_method, owner in node.facts.mentions:
            if name in (methods if is_method else functions):
                mentions.setdefault((name, is_method), []).append((node, owner))
    sites: dict[int, Node] = {}
    for is_method, table in ((False, functions), (True, methods)):
        for name, defs in table.items():
            found = mentions.get((name, is_method), [])
            if (
                len(defs) == 1
                and len(found) == 1
                and _is_call_of(tree, defs[0], found[0][1], is_method=is_method)
            ):
                site = found[0][0]
                # Recursion is no place, and a compound's header runs the function beside its body, not around it.
                if not defs[0].contains(site) and (not site.is_compound or site.kind in ("if", "with")):
                    sites[defs[0].number] = site
    return _without_cycles(sites)


def _is_call_of(tree: Tree, function: Node, owner: str, *, is_method: bool) -> bool:
    if not is_method or not owner or owner == "self":
        return bool(owner)
    cls = function.scope.name if function.scope else ""
    made = [n.facts.makes for n in tree.nodes if owner in n.facts.targets]
    return owner == cls or (bool(made) and all(m == cls for m in made))


def _without_cycles(sites: dict[int, Node]) -> dict[int, Node]:
    """Drop sites that would make a function part of itself."""
    kept: dict[int, Node] = {}
    for number, site in sites.items():
        seen = {number}
        node = site
        while True:
            scope = node.scope
            if scope is None or scope.kind != "def":
                kept[number] = site
                break
            if scope.number in seen:
                break
            seen.add(scope.number)
            node = sites.get(scope.number, scope)
    return kept
