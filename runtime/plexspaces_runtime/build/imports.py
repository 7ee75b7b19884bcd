"""Which modules a source file imports, where, and how much it minds when they are missing.

The sandbox has no file system: a module that was not imported while the component was built is not there later.
So imports inside functions must be found by reading, not by running.  Everything here is a function of the text.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from . import guest_python


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module.

    Args:
        module: its absolute name; "" when a relative import leaves the package.
        line: where, counted from 1.
        lazy: inside a function: it runs later, if ever.
        guarded: a missing module is caught (`try`/`except ImportError`, `suppress`).
        conditional: under an `if` whose outcome cannot be told from the text.
        attribute: from `from module import attribute`: perhaps a submodule, perhaps not.
    """

    module: str
    line: int
    lazy: bool = False
    guarded: bool = False
    conditional: bool = False
    attribute: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def scan(source: str, module: str, *, is_package: bool) -> list[Import]:
    """Every import in `source`, in the order of the text.

    Args:
        source: the file's text.
        module: its absolute name, to resolve relative imports.
        is_package: whether it is an `__init__`.

    Raises:
        SyntaxError: the text is not Python.
    """
    return scan_tree(ast.parse(source), module, is_package=is_package)


def scan_tree(tree: ast.Module, module: str, *, is_package: bool) -> list[Import]:
    """The same for a text that has been parsed already."""
    package = module if is_package else module.rpartition(".")[0]
    scanner = _Scanner(package)
    scanner.statements(tree.body)
    return scanner.found


def absolute(package: str, level: int, name: str) -> str:
    """The absolute name of a relative import of `level` dots; "" when it leaves the outermost package."""
    if level == 0:
        return name
    parts = package.split(".") if package else []
    if len(parts) < level:
        return ""
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, name] if name else base)


class _Scanner:
    """Walks statements, remembering what stands around them."""

    def __init__(self, package: str) -> None:
        self.found: list[Import] = []
        self._package = package
        self._lazy = False
        self._guarded = False
        self._conditional = False

    def statements(self, body: Iterable[ast.stmt], **around: bool) -> None:
        before = (self._lazy, self._guarded, self._conditional)
        self._lazy |= around.get("lazy", False)
        self._guarded |= around.get("guarded", False)
        self._conditional |= around.get("conditional", False)
        for statement in body:
            self._statement(statement)
        self._lazy, self._guarded, self._conditional = before

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    self._add(alias.name, node.lineno)
            case ast.ImportFrom():
                base = absolute(self._package, node.level, node.module or "")
                for alias in node.names:
                    self._add(base, node.lineno, "" if alias.name == "*" else alias.name)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for part in (*node.decorator_list, node.args):
                    self._calls(part)
                self.statements(node.body, lazy=True)
            case ast.ClassDef():
                self.statements(node.body)
            case ast.If():
                self._calls(node.test)
                verdict = _known(node.test)
                if verdict is not False:
                    self.statements(node.body, conditional=verdict is None)
                if verdict is not True:
                    self.statements(node.orelse, conditional=verdict is None)
            case ast.Try() | ast.TryStar():
                guarded = any(_catches_import_error(handler.type) for handler in node.handlers)
                self.statements(node.body, guarded=guarded)
                for handler in node.handlers:
                    # The way out for when the first choice is missing; usually it is not, and this is not needed.
                    self.statements(handler.body, guarded=guarded, conditional=True)
                self.statements(node.orelse)
                self.statements(node.finalbody)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self._calls(item.context_expr)
                self.statements(node.body, guarded=any(_suppresses(item.context_expr) for item in node.items))
            case ast.For() | ast.AsyncFor() | ast.While():
                self.statements(node.body)
                self.statements(node.orelse)
            case ast.Match():
                for case in node.cases:
                    self.statements(case.body, conditional=True)
            case _:
                self._calls(node)

    def _calls(self, node: ast.AST) -> None:
        """`importlib.import_module("x")` and `__import__("x")` with a name that stands in the text."""
        for call in ast.walk(node):
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            first = call.args[0]
            if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
                text = first.value
                if isinstance(text, str) and text and not text.startswith("."):
                    self._add(text, call.lineno)

    def _add(self, module: str, line: int, attribute: str = "") -> None:
        self.found.append(Import(module, line, self._lazy, self._guarded, self._conditional, attribute))


_IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


def _catches_import_error(caught: ast.expr | None) -> bool:
    if caught is None:
        return True
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(_last_name(name) in _IMPORT_ERRORS for name in names)


def _suppresses(expression: ast.expr) -> bool:
    return (
        isinstance(expression, ast.Call)
        and _last_name(expression.func) == "suppress"
        and any(_last_name(argument) in _IMPORT_ERRORS for argument in expression.args)
    )


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


_KNOWN_NAMES: dict[str, Any] = {
    "TYPE_CHECKING": False,
    "typing.TYPE_CHECKING": False,
    "__name__": "<imported>",
    "sys.version_info": (*guest_python.VERSION, 0, "final", 0),
    "sys.platform": guest_python.PLATFORM,
    "os.name": guest_python.OS_NAME,
}


def _known(test: ast.expr) -> bool | None:
    """What `test` comes to inside the guest, or None where the text does not tell."""
    match test:
        case ast.Constant():
            return bool(test.value)
        case ast.Name() | ast.Attribute():
            value = _KNOWN_NAMES.get(ast.unparse(test))
            return None if value is None else bool(value)
        case ast.UnaryOp(op=ast.Not()):
            inner = _known(test.operand)
            return None if inner is None else not inner
        case ast.BoolOp():
            results = [_known(value) for value in test.values]
            decisive = isinstance(test.op, ast.Or)
            if decisive in results:
                return decisive
            return None if None in results else not decisive
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _compare(_value(left), op, _value(right))
        case ast.Call(func=ast.Attribute(value=value, attr="startswith"), args=[ast.Constant(value=str(prefix))]):
            text = _value(value)
            return text.startswith(prefix) if isinstance(text, str) else None
        case _:
            return None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple():
            parts = [_value(part) for part in node.elts]
            return None if None in parts else tuple(parts)
        case ast.Subscript(value=value, slice=ast.Constant(value=int(index))):
            whole = _value(value)
            return whole[index] if isinstance(whole, tuple) and index < len(whole) else None
        case ast.Subscript(value=value, slice=ast.Slice(lower=None, upper=ast.Constant(value=int(end)), step=None)):
            whole = _value(value)
            return whole[:end] if isinstance(whole, tuple) else None
        case _:
            return _KNOWN_NAMES.get(ast.unparse(node))


def _compare(left: Any, op: ast.cmpop, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    try:
        match op:
            case ast.Eq():
                return bool(left == right)
            case ast.NotEq():
                return bool(left != right)
            case ast.Lt():
                return bool(left < right)
            case ast.LtE():
                return bool(left <= right)
            case ast.Gt():
                return bool(left > right)
            case ast.GtE():
                return bool(left >= right)
            case ast.In():
                return bool(left in right)
            case ast.NotIn():
                return bool(left not in right)
    except TypeError:
        return None
    return None


def modules_of(imports: Iterable[Import]) -> Iterator[str]:
    """The distinct modules named, in order."""
    seen: set[str] = set()
    for each in imports:
        if each.module and each.module not in seen:
            seen.add(each.module)
            yield each.module
