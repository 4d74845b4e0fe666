"""Where a function is called from, if that is one place: code that moved into a function still runs there."""

from __future__ import annotations

from flor_dagster.propagation.tree import Node, Tree


def unique_call_sites(tree: Tree) -> dict[int, Node]:
    """Map functions (by number) to the only statement that mentions them, where that is a call.

    A function that is mentioned twice, or handed on as a value, has no single place. Methods count where they are
    called on `self` and no other class of the file has one of that name.
    """
    functions: dict[str, list[Node]] = {}
    methods: dict[str, list[Node]] = {}
    for node in tree.nodes:
        if node.kind == "def" and node.scope is not None:
            (methods if node.scope.kind == "class" else functions).setdefault(node.name, []).append(node)
    mentions: dict[tuple[str, bool], list[tuple[Node, bool]]] = {}
    for node in tree.nodes:
        for name, is_method, is_call in node.facts.mentions:
            if name in (methods if is_method else functions):
                mentions.setdefault((name, is_method), []).append((node, is_call))
    sites: dict[int, Node] = {}
    for is_method, table in ((False, functions), (True, methods)):
        for name, defs in table.items():
            found = mentions.get((name, is_method), [])
            if len(defs) == 1 and len(found) == 1 and found[0][1]:
                site = found[0][0]
                # Recursion is no place, and a compound's header runs the function beside its body, not around it.
                if not defs[0].contains(site) and (not site.is_compound or site.kind in ("if", "with")):
                    sites[defs[0].number] = site
    return _without_cycles(tree, sites)


def _without_cycles(tree: Tree, sites: dict[int, Node]) -> dict[int, Node]:
    """Drop sites that would make a function part of itself."""
    kept: dict[int, Node] = {}
    for number, site in sites.items():
        seen = {number}
        node: Node | None = site
        while node is not None:
            scope = node.scope
            if scope is None or scope.kind != "def":
                kept[number] = site
                break
            if scope.number in seen:
                break
            seen.add(scope.number)
            node = sites.get(scope.number, scope)
    return kept
