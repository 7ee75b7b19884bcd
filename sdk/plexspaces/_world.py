"""The exported half of the contract, for any set of actors: records in, records out, and nothing raises past it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import _imports, _memory, codec
from ._dispatch import Dispatcher, UnserialisableReply, make_dispatcher_factory
from .definition import ActorDefinition
from .errors import HostError, Refuse

TRACEBACK_CHARS_MAX: Final = 16_384
MESSAGE_CHARS_MAX: Final = 4_096


def log_line(level: str, message: str) -> None:
    """A line for the operator; `level`: debug, info, warn or error."""
    logging = _imports.current.logging
    logging.log(logging.Level[level.upper()], message)


def describe(definitions: Mapping[str, ActorDefinition], version: str) -> dict[str, Any]:
    """What `describe` answers, as data."""
    return {"sdk": version, "roles": {role: definition.describe() for role, definition in definitions.items()}}


def _nothing() -> None:
    pass


def make_world(
    definitions: Mapping[str, ActorDefinition],
    types: Any,
    err: type[BaseException],
    *,
    version: str,
    activate: Callable[[], None] = _nothing,
    finish: Callable[[], None] = _nothing,
) -> type:
    """The class that exports these actors.

    Args:
        definitions: by role.
        types: the bindings' `types` module: `Failure`, `FailureKind`, `MessageKind`.
        err: the bindings' `Err`, the exception that carries a `Failure`.
        version: of the SDK.
        activate: called once, when the instance begins to live.
        finish: called when it ends: lets go of output that is held back.
    """
    make = make_dispatcher_factory(definitions, types.MessageKind, log_line)
    refused, crashed = types.FailureKind.REFUSED, types.FailureKind.CRASHED

    def fail(error: BaseException) -> BaseException:
        if isinstance(error, MemoryError):
            _memory.release_reserve()
        if isinstance(error, Refuse):
            code, message = _clip(str(error.code)), _clip(str(error.message))
            failure = types.Failure(refused, code, message, _details(error.details), "")
        else:
            finish()
            code, message = _clip(type(error).__name__), describe_error(error)
            failure = types.Failure(crashed, code, message, _error_details(error), trace(error))
        return err(failure)

    # componentize-py makes a new object of the class for every call, so what lives between calls lives here: one
    # world is one instance, which becomes one actor when `init` or `set-state` names the role.
    dispatcher: Dispatcher | None = None

    def ready(config: Any) -> Dispatcher:
        nonlocal dispatcher
        if dispatcher is None:
            activate()
            lenient = _facets(config).get("arguments") == "lenient"
            dispatcher = make(config.role, config.actor_id, lenient=lenient)
        return dispatcher

    def living() -> Dispatcher:
        assert dispatcher is not None, "the node called an actor before init or set-state"
        return dispatcher

    class WitWorld:
        """The contract's exports."""

        __slots__ = ()

        def init(self, config: Any) -> None:
            try:
                actor_type, _, key = config.actor_id.partition("/")
                ready(config).start(
                    {
                        "actor_id": config.actor_id,
                        "actor_type": actor_type,
                        "key": key or "default",
                        "role": config.role,
                        "args": json.loads(config.args) if config.args.strip() else {},
                        "restored": config.restored,
                        "facets": _facets(config),
                    }
                )
            except BaseException as error:  # noqa: BLE001  a crash becomes an exit
                raise fail(error) from None

        def handle(self, envelope: Any) -> str | None:
            try:
                return living().handle(envelope)
            except BaseException as error:  # noqa: BLE001  a crash becomes an exit
                raise fail(error) from None

        def get_state(self) -> str:
            try:
                return living().save()
            except BaseException as error:  # noqa: BLE001  a crash becomes an exit
                raise fail(error) from None

        def set_state(self, config: Any, state: str) -> None:
            try:
                ready(config).restore(state)
            except BaseException as error:  # noqa: BLE001  a crash becomes an exit
                raise fail(error) from None

        def terminate(self, reason: str) -> None:
            try:
                if dispatcher is not None:
                    dispatcher.terminate(reason)
                finish()
            except BaseException as error:  # noqa: BLE001  a crash becomes an exit
                raise fail(error) from None

        def describe(self) -> str:
            return json.dumps(describe(definitions, version), default=str)

    return WitWorld


def describe_error(error: BaseException) -> str:
    """`Type: text`, whatever the exception's own `__str__` does."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as second:  # noqa: BLE001  an exception whose text raises must still be reported
        text = f"<its text cannot be had: {type(second).__name__}>"
    if isinstance(error, UnserialisableReply | codec.UnsupportedType):
        return _clip(text)
    return _clip(f"{name}: {text}" if text else name)


def trace(error: BaseException) -> str:
    """The traceback as text, without the dispatcher's own frames, and never longer than the limit."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as second:  # noqa: BLE001  formatting runs the author's code (__str__, __repr__)
        return f"{type(error).__name__}: the traceback cannot be shown: {type(second).__name__}"
    text = _passable(text)
    if len(text) <= TRACEBACK_CHARS_MAX:
        return text
    half = TRACEBACK_CHARS_MAX // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _passable(text: str) -> str:
    """Without lone surrogates: they have no UTF-8, and a string that has none cannot cross the boundary."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _clip(text: str) -> str:
    text = _passable(text)
    return text if len(text) <= MESSAGE_CHARS_MAX else text[: MESSAGE_CHARS_MAX - 3] + "..."


def _details(details: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(details), default=str)
    except (TypeError, ValueError, RecursionError):
        return "{}"


def _error_details(error: BaseException) -> str:
    details: dict[str, Any] = {"type": f"{type(error).__module__}.{type(error).__qualname__}"}
    if isinstance(error, HostError):
        details["host_error"] = error.code
    return json.dumps(details)


def _facets(config: Any) -> dict[str, Any]:
    facets = json.loads(config.facets) if config.facets.strip() else {}
    return facets if isinstance(facets, dict) else {}
