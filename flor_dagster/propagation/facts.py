"""What a statement's own line binds, reads and calls, collected in one walk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from flor_dagster.propagation.names import dotted, expressions, imported

_REPEATED = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)


@dataclass(slots=True)
class Facts:
    """Facts of one statement without the statements inside.

    `bound` are names that it binds in its scope, `attributes` dotted names that it assigns, `names` all plain names,
    `chains` all dotted names, `keys` literal keys that it puts into mappings. `certain` are names that it can't run
    without: once it has run, they were bound. `mentions` are functions that it may run:
    (name, as an attribute, what it is called on if it is a plain call that runs once: a name, or `.` for nothing).
    `makes` is what is called to make the value that it assigns (`Trainer` in `t = Trainer(net)`).
    """

    bound: list[str] = field(default_factory=list[str])
    attributes: list[str] = field(default_factory=list[str])
    names: list[str] = field(default_factory=list[str])
    chains: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    certain: list[str] = field(default_factory=list[str])
    mentions: list[tuple[str, bool, str]] = field(default_factory=list[tuple[str, bool, str]])
    makes: str = ""

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
    for expression in expressions(syntax):
        facts.certain.extend(_certain(expression))
    if isinstance(syntax, ast.AugAssign) and isinstance(syntax.target, ast.Name):
        facts.certain.append(syntax.target.id)
    value = getattr(syntax, "value", None) if isinstance(syntax, (ast.Assign, ast.AnnAssign)) else None
    if isinstance(value, ast.Call):
        facts.makes = dotted(value.func)
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
            facts.mentions.append((node.id, False, ""))
        return
    if isinstance(node, ast.Constant):
        return
    if isinstance(node, ast.Call):
        _call(node, facts, repeated=repeated)
        return
    if isinstance(node, ast.Attribute):
        facts.mentions.append((node.attr, True, ""))
        _attribute(node, facts, repeated=repeated)
        return
    _note(node, facts, repeated=repeated)
    inner = repeated or isinstance(node, _REPEATED)
    for child in ast.iter_child_nodes(node):
        _visit(child, facts, repeated=inner)


def _note(node: ast.AST, facts: Facts, *, repeated: bool) -> None:
    if isinstance(node, ast.NamedExpr):
        # An assignment expression binds around a comprehension, too.
        if repeated:
            facts.bound.append(node.target.id)
    elif isinstance(node, ast.Dict):
        facts.keys.extend(_literals(node.keys))
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        facts.keys.extend(_literals([node.slice]))


def _certain(node: ast.AST) -> Iterator[str]:
    """Names that evaluating an expression reads on every path."""
    if isinstance(node, ast.Name):
        if isinstance(node.ctx, ast.Load):
            yield node.id
    elif isinstance(node, ast.BoolOp):
        yield from _certain(node.values[0])
    elif isinstance(node, ast.IfExp):
        yield from _certain(node.test)
    elif isinstance(node, ast.Compare):
        yield from _certain(node.left)
        yield from _certain(node.comparators[0])
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        yield from _certain(node.generators[0].iter)
    elif not isinstance(node, (ast.Lambda, ast.pattern)):
        for child in ast.iter_child_nodes(node):
            yield from _certain(child)


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
        facts.mentions.append((function.id, False, "" if repeated else "."))
    elif isinstance(function, ast.Attribute):
        owner = function.value.func if isinstance(function.value, ast.Call) else function.value
        facts.mentions.append((function.attr, True, "" if repeated else dotted(owner)))
        _attribute(function, facts, repeated=repeated)
    else:
        _visit(function, facts, repeated=repeated)
    for argument in node.args:
        _visit(argument, facts, repeated=repeated)
    for keyword in node.keywords:
        _visit(keyword.value, facts, repeated=repeated)


def _literals(nodes: list[ast.expr] | list[ast.expr | None]) -> list[str]:
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
