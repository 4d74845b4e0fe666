"""What a statement's own line binds, reads and calls, collected in one walk."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import cast

from flor_dagster.propagation.names import dotted, expressions, imported, stored

_REPEATED = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)


@dataclass(slots=True)
class Facts:
    """Facts of one statement without the statements inside.

    `bound` are names that it binds in its scope, `attributes` dotted names that it assigns, `names` all plain names,
    `chains` all dotted names, `keys` literal keys that it puts into mappings. `mentions` are functions that it may run:
    (name, as an attribute, by a plain call that runs once).
    """

    bound: list[str] = field(default_factory=list[str])
    attributes: list[str] = field(default_factory=list[str])
    names: list[str] = field(default_factory=list[str])
    chains: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    mentions: list[tuple[str, bool, bool]] = field(default_factory=list[tuple[str, bool, bool]])

    @property
    def targets(self) -> tuple[str, ...]:
        """Everything that it gives a value."""
        return (*self.bound, *self.attributes)


def facts_of(syntax: ast.stmt | ast.Module) -> Facts:
    """Collect the facts of a statement."""
    facts = Facts()
    if isinstance(syntax, (ast.Import, ast.ImportFrom)):
        facts.bound.extend(name for name, _ in imported(syntax))
        facts.names.extend(facts.bound)
        return facts
    if isinstance(syntax, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        facts.bound.append(syntax.name)
        facts.names.append(syntax.name)
    declared_only = isinstance(syntax, ast.AnnAssign) and syntax.value is None
    for expression in expressions(syntax):
        _visit(expression, facts, repeated=False)
    if declared_only:
        facts.bound.clear()
    return facts


def _visit(node: ast.AST, facts: Facts, *, repeated: bool) -> None:
    if isinstance(node, ast.Name):
        facts.names.append(node.id)
        if isinstance(node.ctx, ast.Store):
            if not repeated:
                facts.bound.append(node.id)
        else:
            facts.mentions.append((node.id, False, False))
        return
    if isinstance(node, ast.Constant):
        return
    if isinstance(node, ast.Call):
        _call(node, facts, repeated=repeated)
        return
    if isinstance(node, ast.Attribute):
        facts.mentions.append((node.attr, True, False))
        _attribute(node, facts, repeated=repeated)
        return
    if isinstance(node, ast.NamedExpr):
        # An assignment expression binds around a comprehension, too.
        if repeated:
            facts.bound.append(node.target.id)
    elif isinstance(node, ast.Dict):
        facts.keys.extend(_literals(node.keys))
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        facts.keys.extend(_literals([node.slice]))
    elif isinstance(node, ast.pattern):
        facts.bound.extend(stored(node))
    inner = repeated or isinstance(node, _REPEATED)
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            _visit(value, facts, repeated=inner)
        elif isinstance(value, list):
            for item in cast("list[object]", value):
                if isinstance(item, ast.AST):
                    _visit(item, facts, repeated=inner)


def _attribute(node: ast.Attribute, facts: Facts, *, repeated: bool) -> None:
    chain = dotted(node)
    if chain:
        facts.chains.append(chain)
        if isinstance(node.ctx, ast.Store):
            facts.attributes.append(chain)
    _visit(node.value, facts, repeated=repeated)


def _call(node: ast.Call, facts: Facts, *, repeated: bool) -> None:
    function = node.func
    if isinstance(function, ast.Name):
        facts.names.append(function.id)
        facts.mentions.append((function.id, False, not repeated))
    elif isinstance(function, ast.Attribute):
        on_self = isinstance(function.value, ast.Name) and function.value.id == "self"
        facts.mentions.append((function.attr, True, on_self and not repeated))
        _attribute(function, facts, repeated=repeated)
    else:
        _visit(function, facts, repeated=repeated)
    for argument in node.args:
        _visit(argument, facts, repeated=repeated)
    for keyword in node.keywords:
        _visit(keyword.value, facts, repeated=repeated)


def _literals(nodes: list[ast.expr] | list[ast.expr | None]) -> list[str]:
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
