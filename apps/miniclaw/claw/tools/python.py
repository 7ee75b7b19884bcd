"""Code that a model wrote: run in an actor made for it, which may do nothing, and is gone afterwards."""

from __future__ import annotations

import ast
import contextlib
import io
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from plexspaces import HostError, SandboxError, actor, handler, host, init_handler

from ..helpers import audit, key_of

_CODE_CHARS_MAX = 50_000
_OUTPUT_CHARS_MAX = 8_000
# Of what code was refused, so much is told.
_REFUSALS_MAX = 20
_REFUSAL_CHARS_MAX = 200


@actor(facets=["virtual_actor"])
class PythonSandboxActor:
    """The tool `run_python`.

    Args (in the application's configuration):
        runner: the actor type without capabilities, whose limits are the code's.
        timeout_ms: how long the code may take.
    """

    @init_handler
    def on_init(self, config: dict) -> None:
        args = config.get("args", {})
        self.runner = args.get("runner", "python_runner")
        self.timeout_ms = int(args.get("timeout_ms", 10_000))
        self.session_id = key_of(config["actor_id"])

    @handler("execute")
    def execute(self, code: str) -> dict:
        """Run code; what it printed, the value of its last expression, or its traceback."""
        if len(code) > _CODE_CHARS_MAX:
            return {"error": f"the code is longer than {_CODE_CHARS_MAX} characters"}
        try:
            runner = host.spawn(self.runner)
        except HostError as error:
            return {"error": f"there is no room to run code now: {error.message}"}
        try:
            answer: dict = host.ask(runner, "execute", {"code": code}, timeout_ms=self.timeout_ms)
        except HostError as error:
            answer = {"error": _ended(error)}
            audit(self, "sandbox_ended", self.session_id, self.context.subject, why=answer["error"], code=code[:500])
        finally:
            # What was killed by its limits is dead already.
            with contextlib.suppress(HostError):
                host.stop(runner, "shutdown")
        if refused := answer.pop("refused", None):
            audit(self, "sandbox_refused", self.session_id, self.context.subject, refused=refused, code=code[:500])
        return answer


def _ended(error: HostError) -> str:
    text = f"{error.message} {error.details.get('exit', '')}"
    for limit, words in (
        ("cpu", "computed for too long"),
        ("memory", "used too much memory"),
        ("wall", "took too long"),
    ):
        if f"limit({limit}" in text or f"limit: {limit}" in text:
            return f"the code {words} and was ended"
    if error.code == "deadline-exceeded":
        return "the code took too long and was ended"
    return f"the code ended its own actor: {error.message}"


@actor
class PythonRunnerActor:
    """Runs one piece of code.  What keeps the code in is not this class but its having no capability."""

    @handler("execute")
    def execute(self, code: str) -> dict:
        """Run code; beside what came of it, `refused` is what it wanted and may not have."""
        with _noting_refusals() as refused:
            answer = self._run(code)
        return {**answer, "refused": refused} if refused else answer

    def _run(self, code: str) -> dict:
        output = io.StringIO()
        names: dict = {"__name__": "__main__"}
        try:
            tree = ast.parse(code, "<code>")
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                exec(compile(tree, "<code>", "exec"), names)
                value = None
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), "<code>", "eval"), names)
            return {
                "result": {"stdout": _cut(output.getvalue()), "value": None if value is None else _cut(repr(value))}
            }
        except BaseException as error:
            if isinstance(error, MemoryError):
                raise
            lines = traceback.format_exception(type(error), error, error.__traceback__)
            shown = [line for line in lines if __file__ not in line] if "__file__" in globals() else lines
            return {"error": _cut("".join(shown)), "stdout": _cut(output.getvalue())}


@contextlib.contextmanager
def _noting_refusals() -> Iterator[list[str]]:
    """A list to which every refusal adds itself, also one that the code catches and says nothing of.

    Code can undo this, being at home in the same interpreter: it is for the record of what models try, and nothing
    depends on it.  What the node itself refused is in the node's log, out of reach.
    """
    refused: list[str] = []
    kinds: tuple[Any, ...] = (host.PermissionDenied, SandboxError)
    makes = [kind.__init__ for kind in kinds]

    def noting(make: Callable[..., None]) -> Callable[..., None]:
        def made(self: Exception, *args: Any, **kwargs: Any) -> None:
            make(self, *args, **kwargs)
            if len(refused) < _REFUSALS_MAX:
                refused.append(str(self)[:_REFUSAL_CHARS_MAX])

        return made

    for kind, make in zip(kinds, makes, strict=True):
        kind.__init__ = noting(make)
    try:
        yield refused
    finally:
        for kind, make in zip(kinds, makes, strict=True):
            kind.__init__ = make


def _cut(text: str) -> str:
    return text if len(text) <= _OUTPUT_CHARS_MAX else text[:_OUTPUT_CHARS_MAX] + f" … ({len(text)} characters)"
