"""A guest that calls any host function by name with any arguments, so that what is called is data of a test."""

import dataclasses
import enum

from plexspaces import _imports, actor, handler, host, info_handler, init_handler, state


@actor
class Prober:
    """Makes calls, and keeps what it is told."""

    heard: list = state(default_factory=list)
    deferred: list = state(default_factory=list)

    @init_handler
    def start(self) -> None:
        # A link to an actor that is not there would be the end of this one.
        host.trap_exit(True)

    @handler("call")
    def call(self, interface: str, function: str, arguments: list) -> dict:
        """The contract's own function, past the SDK's facade.

        Args:
            arguments: JSON; a record is `{"$record": its name, "fields": {...}}`, an enum's case
                `{"$enum": its name, "case": ...}`.
        """
        module = getattr(_imports.current, interface)
        try:
            value = getattr(module, function)(*(_lowered(module, each) for each in arguments))
        except _imports.current.Err as failure:
            return {"error": _lifted(failure.value)}
        return {"value": _lifted(value)}

    @handler("defer")
    def defer(self) -> object:
        """A call that is answered later, or never."""
        self.deferred.append(self.context.message_id)
        return host.NO_REPLY

    @handler("told")
    def told(self) -> list:
        """What it has been told so far."""
        return self.heard

    @info_handler
    def info(self, op: str, payload: dict) -> None:
        self.heard.append([op, payload])

    @handler("note")
    def note(self, **payload: object) -> dict:
        self.heard.append(["note", payload])
        return {"noted": len(self.heard)}


def _lowered(module: object, value: object) -> object:
    if isinstance(value, list):
        return [_lowered(module, each) for each in value]
    if isinstance(value, dict):
        if "$enum" in value:
            return getattr(module, value["$enum"])[value["case"]]
        fields = {name: _lowered(module, each) for name, each in value["fields"].items()}
        return getattr(module, value["$record"])(**fields)
    return value


def _lifted(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, list):
        return [_lifted(each) for each in value]
    if dataclasses.is_dataclass(value):
        names = [each.name for each in dataclasses.fields(value)]
        return {"$record": type(value).__name__, **{name: _lifted(getattr(value, name)) for name in names}}
    return value
