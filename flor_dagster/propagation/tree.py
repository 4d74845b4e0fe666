"""The statement tree: one node per statement, compared by meaning and not by layout.

Matching works on statements instead of syntax nodes: hundreds instead of thousands, and a statement is also what is
placed. Everything that a comparison needs is derived from the syntax tree, so that comments, line breaks, quotes and
redundant parentheses can't change a result.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from flor_dagster.errors import SourceSyntaxError
from flor_dagster.propagation.facts import Facts, facts_of

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
WITHS = (ast.With, ast.AsyncWith)
TRIES = (ast.Try, ast.TryStar)
SCOPES = (*FUNCTIONS, ast.ClassDef)

# Statements that may stand in for each other after an edit share a kind; others are never similar.
_KINDS: dict[type[ast.AST], str] = {
    ast.Module: "module",
    ast.FunctionDef: "def",
    ast.AsyncFunctionDef: "def",
    ast.ClassDef: "class",
    ast.For: "loop",
    ast.AsyncFor: "loop",
    ast.While: "loop",
    ast.If: "if",
    ast.With: "with",
    ast.AsyncWith: "with",
    ast.Try: "try",
    ast.TryStar: "try",
    ast.Match: "match",
    ast.Assign: "assign",
    ast.AnnAssign: "assign",
    ast.AugAssign: "assign",
    ast.Expr: "expr",
    ast.Import: "import",
    ast.ImportFrom: "import",
}


@dataclass(slots=True, eq=False)
class Block:
    """A list of statements that run one after the other: a body, an else branch, a handler, a case."""

    number: int
    owner: Node
    role: str
    label: int
    items: list[Node] = field(default_factory=list["Node"])
    is_elif: bool = False


@dataclass(slots=True, eq=False)
class Node:
    """One statement; `text` identifies its own line(s), `digest` the statement with everything in it."""

    number: int
    syntax: ast.stmt | ast.Module
    kind: str
    block: Block | None
    index: int
    scope: Node | None
    loop: Node | None
    tokens: tuple[str, ...]
    facts: Facts
    blocks: list[Block] = field(default_factory=list[Block])
    text: int = 0
    digest: int = 0
    size: int = 1
    last: int = 0
    bag: dict[str, int] = field(default_factory=dict[str, int])
    shape: dict[str, int] = field(default_factory=dict[str, int])
    shape_text: int = 0

    @property
    def is_compound(self) -> bool:
        """Whether the statement holds other statements."""
        return bool(self.blocks)

    @property
    def is_scope(self) -> bool:
        """Whether names bound inside are not the surrounding code's names."""
        return self.kind in ("def", "class", "module")

    @property
    def line(self) -> int:
        """First line, 1-based; decorators belong to their function."""
        if isinstance(self.syntax, ast.Module):
            return 1
        if isinstance(self.syntax, SCOPES) and self.syntax.decorator_list:
            return min(self.syntax.lineno, *(d.lineno for d in self.syntax.decorator_list))
        return self.syntax.lineno

    @property
    def end_line(self) -> int:
        """Last line, 1-based."""
        return 1 if isinstance(self.syntax, ast.Module) else self.syntax.end_lineno or self.syntax.lineno

    @property
    def column(self) -> int:
        """Offset of the first byte in its line."""
        return 0 if isinstance(self.syntax, ast.Module) else self.syntax.col_offset

    @property
    def end_column(self) -> int:
        """Offset behind the last byte in its last line."""
        return 0 if isinstance(self.syntax, ast.Module) else self.syntax.end_col_offset or 0

    @property
    def name(self) -> str:
        """Name of a function or class, else empty."""
        return self.syntax.name if isinstance(self.syntax, SCOPES) else ""

    def contains(self, other: Node) -> bool:
        """Whether `other` is this statement or lies inside."""
        return self.number <= other.number <= self.last

    def ancestors(self) -> Iterator[Node]:
        """Enclosing statements, innermost first, ending with the module."""
        block = self.block
        while block is not None:
            yield block.owner
            block = block.owner.block

    def walk(self) -> Iterator[Node]:
        """This statement and everything inside, in source order."""
        yield self
        for block in self.blocks:
            for item in block.items:
                yield from item.walk()


class Interner:
    """Gives equal things equal small numbers; shared by the trees that are compared."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}

    def __call__(self, thing: object) -> int:
        """The number of a thing."""
        return self._numbers.setdefault(thing, len(self._numbers))


@dataclass(slots=True, eq=False)
class Tree:
    """A source file as statements, numbered in source order; `nodes[0]` is the module."""

    source: str
    root: Node
    nodes: list[Node]
    blocks: list[Block]
    # Where statements that were left out stood: `id` of the statement to (block, index of the gap).
    gaps: dict[int, tuple[Block, int]] = field(default_factory=dict[int, tuple[Block, int]])

    def qualified(self, node: Node) -> str:
        """Dotted name of the scope that `node` is, `<module>` at the top."""
        parts = [node.name, *(a.name for a in node.ancestors())]
        return ".".join(p for p in reversed(parts) if p) or "<module>"


def parse(source: str, what: str = "source") -> ast.Module:
    """Parse Python source.

    Raises:
        SourceSyntaxError: the text is no Python of the running interpreter (Python 2, torn or conflicted files).
    """
    try:
        with warnings.catch_warnings():
            # Old code may draw warnings; they are not for whoever asks about it.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except SyntaxError as error:
        message = f"the {what} can't be parsed: line {error.lineno or '?'}: {error.msg}"
        raise SourceSyntaxError(message) from error
    except (ValueError, RecursionError) as error:
        message = f"the {what} can't be parsed: {error}"
        raise SourceSyntaxError(message) from error


def compile_error(source: str) -> str | None:
    """Why Python would not compile a text, or None; finds what parsing alone does not (a late `global`)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "old version", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError) as error:
        return str(error)
    return None


def build(
    source: str,
    interner: Interner,
    *,
    module: ast.Module,
    without: frozenset[int] = frozenset(),
    renames: dict[str, str] | None = None,
    facts: dict[int, Facts] | None = None,
) -> Tree:
    """Build the statement tree of a parsed file.

    Args:
        source: The text that `module` was parsed from.
        interner: Shared by all trees that are to be compared.
        module: The parsed file.
        without: `id`s of statements of `module` that are left out.
        renames: Names that are read as others, so that two trees speak the same names.
        facts: Facts of the statements by `id`, kept between trees of the same module.
    """
    return _Builder(source, interner, without, renames or {}, {} if facts is None else facts).build(module)


class _Builder:
    def __init__(
        self,
        source: str,
        interner: Interner,
        without: frozenset[int],
        renames: dict[str, str],
        facts: dict[int, Facts],
    ) -> None:
        self.tree = Tree(source, None, [], [])  # pyright: ignore[reportArgumentType]  # set by build
        self.interner = interner
        self.without = without
        self.renames = renames
        self.facts = facts

    def build(self, module: ast.Module) -> Tree:
        self.tree.root = self._node(module, None, 0, None, None)
        return self.tree

    def _node(
        self,
        syntax: ast.stmt | ast.Module,
        block: Block | None,
        index: int,
        scope: Node | None,
        loop: Node | None,
    ) -> Node:
        tokens: list[str] = []
        header_tokens(syntax, tokens, self.renames)
        node = Node(
            number=len(self.tree.nodes),
            syntax=syntax,
            kind=_KINDS.get(type(syntax), type(syntax).__name__),
            block=block,
            index=index,
            scope=scope,
            loop=loop,
            tokens=tuple(tokens),
            facts=self._facts(syntax),
        )
        self.tree.nodes.append(node)
        node.bag = dict(Counter(t for t in tokens if t[0] not in "[-"))
        shape = [("n:" if t[:2] == "n:" else t) for t in tokens]
        node.shape = dict(Counter(t for t in shape if t[0] not in "[-"))
        node.text = self.interner(node.tokens)
        node.shape_text = self.interner(tuple(shape))
        inner_scope = node if node.is_scope else scope
        inner_loop = node if node.kind == "loop" else None if node.is_scope else loop
        children: list[object] = [node.text]
        for role, label, statements in block_parts(syntax):
            # The else branch of a loop runs once, after the loop.
            in_loop = loop if (role == "orelse" and node.kind == "loop") else inner_loop
            own = Block(len(self.tree.blocks), node, role, self._label(label))
            own.is_elif = is_elif_of(syntax, role, statements)
            self.tree.blocks.append(own)
            node.blocks.append(own)
            children.append((role, own.label))
            for statement in statements:
                if id(statement) in self.without:
                    self.tree.gaps[id(statement)] = (own, len(own.items))
                    continue
                child = self._node(statement, own, len(own.items), inner_scope, in_loop)
                own.items.append(child)
                children.append(child.digest)
                node.size += child.size
        node.last = len(self.tree.nodes) - 1
        node.digest = self.interner(("tree", *children)) if node.blocks else node.text
        return node

    def _facts(self, syntax: ast.stmt | ast.Module) -> Facts:
        known = self.facts.get(id(syntax))
        if known is None:
            known = self.facts[id(syntax)] = facts_of(syntax)
        return known

    def _label(self, label: ast.AST | None) -> int:
        tokens: list[str] = []
        if isinstance(label, ast.ExceptHandler):
            if label.type is not None:
                add_tokens(label.type, tokens, self.renames)
            tokens.append(f"n:{label.name}")
        elif isinstance(label, ast.match_case):
            add_tokens(label.pattern, tokens, self.renames)
            if label.guard is not None:
                add_tokens(label.guard, tokens, self.renames)
        return self.interner(("label", *tokens))


def block_parts(syntax: ast.stmt | ast.Module) -> Iterator[tuple[str, ast.AST | None, list[ast.stmt]]]:
    """Blocks of a statement as (role, handler or case, statements), in source order."""
    body = getattr(syntax, "body", None)
    if isinstance(body, list):
        yield "body", None, cast("list[ast.stmt]", body)
    for handler in cast("list[ast.ExceptHandler]", getattr(syntax, "handlers", [])):
        yield "handler", handler, handler.body
    for case in cast("list[ast.match_case]", getattr(syntax, "cases", [])):
        yield "case", case, case.body
    for role in ("orelse", "finalbody"):
        rest = cast("list[ast.stmt]", getattr(syntax, role, []))
        if rest:
            yield role, None, rest


def is_docstring(block: Block) -> bool:
    """Whether a block starts with a documentation string."""
    if not (block.owner.is_scope and block.items):
        return False
    value = getattr(block.items[0].syntax, "value", None)
    return block.items[0].kind == "expr" and isinstance(value, ast.Constant) and isinstance(value.value, str)


def is_elif_of(syntax: ast.AST, role: str, statements: list[ast.stmt]) -> bool:
    """`elif` is an `If` that starts where the word `elif` does: no statement can be put before or after it."""
    if not (isinstance(syntax, ast.If) and role == "orelse" and len(statements) == 1):
        return False
    inner = statements[0]
    return isinstance(inner, ast.If) and inner.col_offset == syntax.col_offset


def header_tokens(syntax: ast.stmt | ast.Module, out: list[str], renames: dict[str, str]) -> None:
    """Tokens of a statement without the statements inside."""
    out.append(type(syntax).__name__)
    if isinstance(syntax, SCOPES):
        out.append("n:" + renames.get(syntax.name, syntax.name))
    for name, value in ast.iter_fields(syntax):
        if name in (
            "body",
            "orelse",
            "finalbody",
            "handlers",
            "cases",
            "type_ignores",
            "name",
            "type_comment",
        ):
            continue
        _add_value(value, out, renames)


def add_tokens(node: ast.AST, out: list[str], renames: dict[str, str]) -> None:
    """Tokens of an expression: `n:` names, `a:` attributes, `c:` constants, `k:` keywords, the rest structure."""
    if isinstance(node, ast.Name):
        out.append("n:" + renames.get(node.id, node.id))
    elif isinstance(node, ast.Constant):
        _add_constant(node.value, out)
    elif isinstance(node, ast.Attribute):
        add_tokens(node.value, out, renames)
        out.append("a:" + node.attr)
    elif isinstance(node, ast.arg):
        out.append("n:" + renames.get(node.arg, node.arg))
        if node.annotation is not None:
            add_tokens(node.annotation, out, renames)
    elif isinstance(node, ast.keyword):
        out.append(f"k:{node.arg}")
        add_tokens(node.value, out, renames)
    elif isinstance(node, ast.alias):
        out.append("i:" + node.name)
        if node.asname:
            out.append("n:" + node.asname)
    elif not isinstance(node, ast.expr_context):
        out.append(type(node).__name__)
        for _, value in ast.iter_fields(node):
            _add_value(value, out, renames)


def _add_value(value: object, out: list[str], renames: dict[str, str]) -> None:
    if isinstance(value, ast.AST):
        add_tokens(value, out, renames)
    elif isinstance(value, list):
        out.append(f"[{len(value)}")
        for item in cast("list[object]", value):
            _add_value(item, out, renames)
    elif value is None:
        out.append("-")
    else:
        out.append(f"s:{value}")


def _add_constant(value: object, out: list[str]) -> None:
    if isinstance(value, str):
        # The words of a message tell that it is the same message after an edit; the whole text, that it is equal.
        out.append("-" + value)
        words = value.split()[:8]
        out.extend("c:" + word for word in words)
        if not words:
            out.append("c:''")
    else:
        out.append(f"c:{value!r}")
