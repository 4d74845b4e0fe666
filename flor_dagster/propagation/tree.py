"""The statement tree: one node per statement, compared by meaning and not by layout.

Matching works on statements instead of syntax nodes: hundreds instead of thousands, and a statement is also what is
placed. Everything that a comparison needs is derived from the syntax tree, so that comments, line breaks, quotes and
redundant parentheses can't change a result.
"""

from __future__ import annotations

import ast
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from flor_dagster.propagation.facts import Facts, facts_of
from flor_dagster.propagation.syntax import SCOPES, TRIES, block_parts, is_elif_of
from flor_dagster.propagation.tokens import add_tokens, header_tokens

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
        said = tuple(tokens)
        node = Node(
            number=len(self.tree.nodes),
            syntax=syntax,
            kind=_KINDS.get(type(syntax), type(syntax).__name__),
            block=block,
            index=index,
            scope=scope,
            loop=loop,
            tokens=said,
            facts=self._facts(syntax, said),
        )
        self.tree.nodes.append(node)
        node.bag, node.shape, shape = _counted(node.tokens)
        node.text = self.interner(node.tokens)
        node.shape_text = self.interner(shape)
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

    def _facts(self, syntax: ast.stmt | ast.Module, tokens: tuple[str, ...]) -> Facts:
        known = self.facts.get(id(syntax))
        if known is None:
            # Tokens speak of all that facts do, but for handlers' and cases' expressions and under other names.
            told = not self.renames and not isinstance(syntax, (*TRIES, ast.Match))
            known = _FACTS.get(tokens) if told else None
            if known is None:
                known = facts_of(syntax)
                if told:
                    _keep(tokens, known)
            self.facts[id(syntax)] = known
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


# Versions of a file share most of their statements: what was found out about one is found again by what it says.
_FACTS: OrderedDict[tuple[str, ...], Facts] = OrderedDict()
_MOST_KEPT = 8192


def _keep(tokens: tuple[str, ...], facts: Facts) -> None:
    _FACTS[tokens] = facts
    if len(_FACTS) > _MOST_KEPT:
        _FACTS.popitem(last=False)


@lru_cache(maxsize=_MOST_KEPT)
def _counted(tokens: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int], tuple[str, ...]]:
    """How often a statement says what, the same with names left out, and its tokens with names left out."""
    shape = tuple("n:" if t[:2] == "n:" else t for t in tokens)
    return (
        dict(Counter(t for t in tokens if t[0] not in "[-")),
        dict(Counter(t for t in shape if t[0] not in "[-")),
        shape,
    )


def is_docstring(block: Block) -> bool:
    """Whether a block starts with a documentation string."""
    if not (block.owner.is_scope and block.items):
        return False
    value = getattr(block.items[0].syntax, "value", None)
    return block.items[0].kind == "expr" and isinstance(value, ast.Constant) and isinstance(value.value, str)
