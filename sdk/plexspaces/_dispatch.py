"""One actor instance: messages in, replies out, state to text and back.  Knows nothing of WebAssembly."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from . import _workflow, codec
from ._annotations import suggest, to_json
from ._workflow import Run, Signal
from .definition import (
    FSM_FIELD,
    SLOW,
    ActorDefinition,
    Handler,
    IllegalTransition,
    InvalidArguments,
    Invoke,
)
from .errors import Refuse, WorkflowCancelled

SELF: Final = "_plexspaces"
# What the node tells of others' ends.  It may tell more one day, so a handler need not name all of it.
_NODE_SIGNALS: Final = frozenset({"DOWN", "EXIT", "__DOWN__", "__EXIT__"})
_FORMAT: Final = 1


class NoReply:
    """The type of `NO_REPLY`."""

    def __repr__(self) -> str:
        return "NO_REPLY"


NO_REPLY: Final = NoReply()


class UnserialisableReply(TypeError):
    """A handler returned what has no JSON form."""


class Envelope(Protocol):
    """One message, in the shape of the contract's record."""

    id: str
    kind: Any
    op: str
    payload: str
    sender: str
    context: str


@dataclass(slots=True)
class _Received:
    """An `Envelope` of a message that came by another way than `handle`."""

    id: str
    kind: Any
    op: str
    payload: str
    sender: str
    context: str


@dataclass(frozen=True, slots=True)
class Context:
    """Who started the work, and what it belongs to.

    Attributes:
        subject: whom the token named, "" for work of the node's own.
        roles: the subject's.
        scopes: of the subject's token.
        session: what the caller groups messages by.
        trace: the W3C `traceparent`.
        causation_id: the message that caused this one.
        deadline_ms: wall clock, milliseconds since 1970, after which nobody waits any more; `None` for no limit.
        message_id: of this message, for `host.reply`.
        raw: everything the node said.
    """

    subject: str = ""
    roles: frozenset[str] = frozenset()
    session: str = ""
    trace: str = ""
    causation_id: str = ""
    deadline_ms: int | None = None
    message_id: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict)
    scopes: frozenset[str] = frozenset()

    def meets(self, needed: frozenset[str]) -> bool:
        """Whether the caller has one of these roles, or of the scopes that are written `scope:NAME`."""
        return any(
            each.removeprefix("scope:") in self.scopes if each.startswith("scope:") else each in self.roles
            for each in needed
        )

    @classmethod
    def parse(cls, text: str, message_id: str = "") -> Context:
        """Read an envelope's context; "" is an empty one."""
        if not text:
            return cls(message_id=message_id)
        raw = json.loads(text)
        return cls(
            subject=raw.get("subject") or "",
            roles=frozenset(raw.get("roles") or ()),
            session=raw.get("session") or "",
            trace=raw.get("trace") or "",
            causation_id=raw.get("causation_id") or "",
            deadline_ms=raw.get("deadline_ms"),
            message_id=message_id,
            raw=raw,
            scopes=frozenset(raw.get("scopes") or ()),
        )


class _FromEnvelope:
    """`self.sender` and `self.context`: read only when asked for, so that other messages pay nothing."""

    plexspaces = True

    def __init__(self, read: Callable[[Dispatcher], Any]) -> None:
        self._read = read

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return self._read(instance.__dict__[SELF])

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError("sender and context belong to the message and cannot be assigned")


class _MachineState:
    """The field `fsm_state`, guarded by the machine's table: a step that is not in it is refused where it is made.

    The operator hears of it too: whoever asked may not be one who reads.
    """

    plexspaces = True

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance.__dict__[FSM_FIELD]

    def __set__(self, instance: Any, value: Any) -> None:
        dispatcher: Dispatcher = instance.__dict__[SELF]
        definition = dispatcher.definition
        assert definition.machine is not None
        try:
            definition.machine.check(definition.name, instance.__dict__[FSM_FIELD], value)
        except IllegalTransition as refusal:
            dispatcher.report("warn", f"illegal transition refused: {refusal.message}")
            raise
        instance.__dict__[FSM_FIELD] = value


# `json.dumps` makes a new encoder object, and `json.loads` checks types and skips blanks, at every call; in the sandbox
# that is a third of a short message's time.  These are the parts both end in.
def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_scan: Final[Callable[[str, int], tuple[Any, int]]] = _decoder.scan_once  # type: ignore[attr-defined]
_make_encoder = getattr(json.encoder, "c_make_encoder", None)


def _new_encoder() -> Callable[[Any, int], Any] | None:
    escape = getattr(json.encoder, "c_encode_basestring_ascii", None)
    if _make_encoder is None or escape is None:
        return None
    try:
        # The first argument remembers which containers are open, so that a value which holds itself is found.
        encode: Callable[[Any, int], Any] = _make_encoder({}, to_json, escape, None, ":", ",", False, False, False)
        "".join(encode({"probe": [1, 1.5, None]}, 0))
    except TypeError:  # another CPython, another signature
        return None
    return encode


_encode_parts = _new_encoder()
_plain_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=to_json).encode


def dump(value: Any) -> str:
    """JSON text of a value, strict: no NaN, and types of ours in their JSON form.

    Raises:
        UnserialisableReply: with the reason.
    """
    global _encode_parts
    try:
        return _plain_encode(value) if _encode_parts is None else "".join(_encode_parts(value, 0))
    except (TypeError, ValueError, RecursionError) as error:
        # What it remembered when it failed would make it see circles where there are none.
        _encode_parts = _new_encoder()
        reason = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        raise UnserialisableReply(f"the reply cannot be written as JSON: {reason}") from None


# As deep as CPython's JSON reader may go on the sandbox's stack with room to spare for the handler.
DEPTH_MAX: Final = 500
_CHUNK: Final = DEPTH_MAX // 2
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def too_deep(text: str) -> bool:
    """Would reading this JSON recurse more than `DEPTH_MAX` deep?

    In the sandbox that exhausts the stack, which is a trap: the receiver would die of the sender's message.
    Brackets are counted per chunk, at the speed of C, and the text is looked at closely only if that is not enough.
    """
    depth = 0
    for start in range(0, len(text), _CHUNK):
        opened = text.count("[", start, start + _CHUNK) + text.count("{", start, start + _CHUNK)
        if depth + opened > DEPTH_MAX:
            break
        depth += opened - text.count("]", start, start + _CHUNK) - text.count("}", start, start + _CHUNK)
    else:
        return False
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif token in "]}":
            depth -= 1
    return False


Calls = Mapping[str, tuple[Invoke, Handler]]


def equip(definition: ActorDefinition) -> Calls:
    """Give an actor class the members that read the message; what a call needs, by operation.

    Once for a class, and while a component is built: a change to a class at run time costs every instance the
    interpreter's memory of what it has looked up.
    """
    cls: Any = definition.cls
    if "sender" not in vars(cls):
        cls.sender = _FromEnvelope(lambda dispatcher: dispatcher.sender)
        cls.context = _FromEnvelope(lambda dispatcher: dispatcher.context)
    if definition.machine is not None and not isinstance(vars(cls).get(FSM_FIELD), _MachineState):
        setattr(cls, FSM_FIELD, _MachineState())
    return {name: (known.invoke, known) for name, known in definition.calls.items()}


class Dispatcher:
    """Runs one instance of one actor class.

    Args:
        definition: of the class, which has been through `equip`.
        calls: what `equip` gave.
        kinds: the contract's `MessageKind`, whose members are compared by identity.
        actor_id: `type` or `type/key`.
        log: takes a level's name and a line.
        lenient: ignore arguments that a handler does not name, instead of refusing them.
    """

    __slots__ = (
        "_call",
        "_calls",
        "_context",
        "_kinds",
        "_lenient",
        "_log",
        "actor",
        "actor_id",
        "definition",
        "envelope",
    )

    def __init__(
        self,
        definition: ActorDefinition,
        calls: Calls,
        kinds: Any,
        actor_id: str,
        log: Callable[[str, str], None],
        *,
        lenient: bool = False,
    ) -> None:
        self.definition = definition
        self.actor_id = actor_id
        self.envelope: Envelope | None = None
        # What was read last, and from which envelope.
        self._context: tuple[Envelope, Context] | None = None
        self._kinds = kinds
        self._call = kinds.CALL
        self._calls = calls
        self._log = log
        self._lenient = lenient
        self.actor = self._create()

    def _create(self) -> Any:
        definition = self.definition
        actor: Any = object.__new__(definition.cls)
        members = actor.__dict__
        members[SELF] = self
        for declared in definition.states:
            members[declared.name] = declared.make()
        if definition.machine is not None:
            members[FSM_FIELD] = definition.machine.initial
        members["actor_id"] = self.actor_id
        actor.__init__()
        return actor

    @property
    def sender(self) -> str:
        return "" if self.envelope is None else self.envelope.sender

    @property
    def context(self) -> Context:
        envelope = self.envelope
        if envelope is None:
            return Context()
        if self._context is None or self._context[0] is not envelope:
            self._context = (envelope, Context.parse(envelope.context, envelope.id))
        return self._context[1]

    # -- messages ----------------------------------------------------------------------------------------

    def handle(self, envelope: Envelope) -> str | None:
        """Run one message.

        Returns:
            The reply as JSON, or `None` where there is none.

        Raises:
            Refuse: the message is not for this actor, or its handler refuses it.
            BaseException: whatever leaves the handler.
        """
        self.envelope = envelope
        if envelope.kind is self._call:
            entry = self._calls.get(envelope.op)
            if entry is not None:
                payload = envelope.payload
                if len(payload) > DEPTH_MAX and too_deep(payload):
                    raise _nested(envelope)
                try:
                    arguments, end = _scan(payload, 0)
                except (StopIteration, ValueError):  # blanks in front, or no JSON: the thorough path tells which
                    return self._slowly(envelope)
                if end == len(payload) and arguments.__class__ is dict:
                    result = entry[0](self.actor, arguments)
                    if result is SLOW:
                        result = self._thoroughly(entry[1], envelope.op, arguments)
                    if result is NO_REPLY:
                        return None
                    return dump(result)
        return self._slowly(envelope)

    def _slowly(self, envelope: Envelope) -> str | None:
        kinds, definition, operation = self._kinds, self.definition, envelope.op
        arguments = self._arguments(envelope)
        match envelope.kind:
            case kinds.CALL:
                known = definition.calls.get(operation) or definition.calls.get("*")
            case kinds.CAST:
                known = definition.casts.get(operation) or definition.casts.get("*")
                if known is not None and definition.events:
                    self._notify(definition.events[known.operation], operation, arguments)
                    return None
            case kinds.INFO:
                self._signalled(operation, arguments)
                return None
            case kinds.RUN:
                if definition.run is None:
                    raise self._unknown(envelope)
                return dump(self._run(definition.run, operation, arguments))
            case kinds.SIGNAL:
                known = definition.signals.get(operation) or definition.signals.get("*")
            case _:
                known = definition.queries.get(operation) or definition.queries.get("*")
        if known is None:
            raise self._unknown(envelope)
        result = self._thoroughly(known, operation, arguments)
        if envelope.kind is kinds.SIGNAL:
            return "null"
        if result is NO_REPLY or envelope.kind is kinds.CAST:
            return None
        return dump(result)

    # -- workflows ---------------------------------------------------------------------------------------

    def _run(self, known: Handler, operation: str, arguments: dict[str, Any]) -> Any:
        """A workflow's run, from its first boundary to its last.

        Raises:
            Refuse: however it has failed: a run that ends is over, and its actor goes on, to answer queries.
        """
        run = Run(self.save, self._take_signal, self.report)
        began = False

        def begin() -> None:
            nonlocal began
            began = True
            run.boundary()

        before = _workflow.enter(run)
        try:
            result = self._thoroughly(known, operation, arguments, begin=begin)
            if result is NO_REPLY:
                raise TypeError("a run cannot answer later: return its result")
            # Before the end is told: what cannot be written must not have been done.
            dump(result)
            run.finish()
            return result
        except MemoryError:
            raise
        except (Exception, WorkflowCancelled) as error:  # whatever leaves a run is its end
            if not began:
                raise
            if not isinstance(error, Refuse | WorkflowCancelled):
                self.report("error", "".join(traceback.format_exception(error)).rstrip())
            raise run.give_up(error, dump) from error
        finally:
            _workflow.enter(before)

    def _take_signal(self, signal: Signal) -> bool:
        """Hand a signal to its handler, if it has one.  One that fails is reported, and the run goes on."""
        known = self.definition.signals.get(signal.name) or self.definition.signals.get("*")
        if known is None:
            return False
        envelope = self.envelope
        self.envelope = _Received(signal.id, self._kinds.SIGNAL, signal.name, "", signal.sender, signal.context)
        try:
            self._thoroughly(known, signal.name, dict(signal.payload))
        except MemoryError:
            raise
        except Refuse as refusal:
            self.report("warn", f"refused: {refusal.message}")
        except Exception as error:  # noqa: BLE001  whoever sent it is not to end the run
            self.report("error", f"{known.method} failed:\n{''.join(traceback.format_exception(error)).rstrip()}")
        finally:
            self.envelope = envelope
        return True

    def _arguments(self, envelope: Envelope) -> dict[str, Any]:
        text = envelope.payload
        if len(text) > DEPTH_MAX and too_deep(text):
            raise _nested(envelope)
        try:
            arguments = _decoder.decode(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InvalidArguments("invalid-arguments", f"{envelope.op}: the arguments are not JSON: {error}") from None
        if arguments is None:
            return {}
        if not isinstance(arguments, dict):
            kind = type(arguments).__name__
            raise InvalidArguments(
                "invalid-arguments",
                f"{envelope.op}: the arguments must be a JSON object of name to value, not a {kind}",
            )
        return arguments

    def _notify(self, several: tuple[Handler, ...], event: str, arguments: dict[str, Any]) -> None:
        """Run every handler of an event.

        One that fails is reported, keeps its place, and does not keep the event from the others.  Exhausted memory is
        not theirs to survive: it ends the actor.

        Raises:
            Refuse: every one of them refused the event.
        """
        refusals: list[tuple[Handler, Refuse]] = []
        for known in several:
            try:
                self._thoroughly(known, event, arguments)
            except MemoryError:
                raise
            except Refuse as refusal:
                refusals.append((known, refusal))
            except Exception as error:  # noqa: BLE001  the others are to hear of the event
                self.report("error", f"{known.method} failed:\n{''.join(traceback.format_exception(error)).rstrip()}")
        if len(refusals) == len(several):
            raise refusals[0][1]
        for known, refused in refusals:
            self.report("warn", f"{known.method} refused the event: {refused.message}")

    def report(self, level: str, text: str) -> None:
        """Write a line about the message at hand."""
        where = f"{self.envelope.op}: " if self.envelope is not None else ""
        self._log(level, where + text)

    def _signalled(self, operation: str, arguments: dict[str, Any]) -> None:
        definition = self.definition
        names = (operation, f"__{operation}__", operation.strip("_"))
        for name in names:
            known = definition.casts.get(name) or definition.calls.get(name)
            if known is not None:
                if operation in _NODE_SIGNALS:
                    # The names under which published actors know who ended and why.
                    prefix = operation.strip("_").lower()
                    arguments = {
                        **arguments,
                        f"{prefix}_from": arguments.get("actor_id", ""),
                        f"{prefix}_reason": arguments.get("reason", ""),
                    }
                elif name in definition.events:
                    self._notify(definition.events[name], operation, arguments)
                    return
                break
        else:
            known = definition.info or definition.casts.get("*")
        if known is None:
            self._log("debug", f"{definition.name} has no handler for the signal {operation!r}; it was ignored")
            return
        self._thoroughly(known, operation, arguments, lenient=operation in _NODE_SIGNALS)

    def _thoroughly(
        self,
        known: Handler,
        operation: str,
        arguments: dict[str, Any],
        *,
        lenient: bool = False,
        begin: Callable[[], None] | None = None,
    ) -> Any:
        """Roles, conversions, refusals: what the compiled invoker leaves to us.

        Args:
            begin: called once nothing stands against it.
        """
        if known.roles and not self.context.meets(known.roles):
            needed = " or ".join(sorted(known.roles))
            raise Refuse(
                "permission-denied",
                f"{operation} needs the role {needed}",
                operation=operation,
                roles=sorted(known.roles),
            )
        if known.positional:  # a workflow's plain signal/query
            return known.function(self.actor, operation, arguments)
        bound, ignored = known.parameters.bind(operation, arguments, lenient=lenient or self._lenient)
        if ignored and not lenient:
            self._log("warn", f"{operation}: ignored the unknown arguments {', '.join(map(repr, ignored))}")
        if begin is not None:
            begin()
        return known.function(self.actor, **bound)

    def _unknown(self, envelope: Envelope) -> Refuse:
        definition, operation = self.definition, envelope.op
        kinds = self._kinds
        if envelope.kind is kinds.SIGNAL:
            names, what = list(definition.signals), "signal"
        elif envelope.kind is kinds.QUERY:
            names, what = list(definition.queries), "query"
        elif envelope.kind is kinds.RUN:
            return Refuse("unknown-operation", f"{definition.name} has no run: it is a {definition.behaviour}")
        else:
            names, what = definition.operations(), "operation"
            other = definition.casts if envelope.kind is kinds.CALL else definition.calls
            if operation in other:
                way = "told, not asked" if envelope.kind is kinds.CALL else "asked, not told"
                return Refuse(
                    "unknown-operation", f"{operation!r} of {definition.name} can only be {way}", operation=operation
                )
        has = ", ".join(names) if names else "none"
        hint = suggest(operation, names) or "."
        return Refuse(
            "unknown-operation",
            f"{definition.name} has no {what} {operation!r}{hint} It has: {has}.",
            operation=operation,
            known=names,
        )

    # -- life --------------------------------------------------------------------------------------------

    def start(self, config: Mapping[str, Any]) -> None:
        """Run the init handler.

        Args:
            config: `actor_id`, `actor_type`, `key`, `role`, `args`, `restored`, `facets`.

        Raises:
            InvalidArguments: the child specification's arguments do not fit.
        """
        self.envelope = None
        known = self.definition.init
        arguments = dict(config["args"])
        if known is None:
            if arguments:
                self._log(
                    "warn",
                    f"{self.definition.name} has no @init_handler: its arguments ({', '.join(arguments)}) reach nobody",
                )
            return
        fields = known.parameters.fields
        if not fields and known.parameters.rest is None:
            known.function(self.actor)
        elif len(fields) == 1 and (fields[0].name == "config" or (fields[0].shape.text == "object")):
            known.function(self.actor, dict(config))
        else:
            bound, _ = known.parameters.bind("init", arguments, lenient=self._lenient)
            known.function(self.actor, **bound)

    def terminate(self, reason: str) -> None:
        """Run the terminate handler."""
        self.envelope = None
        known = self.definition.terminate
        if known is None:
            return
        if known.parameters.fields:
            known.function(self.actor, reason)
        else:
            known.function(self.actor)

    # -- state -------------------------------------------------------------------------------------------

    def save(self) -> str:
        """The declared state as text.

        Raises:
            codec.UnsupportedType: a field holds what cannot be kept.
        """
        members = self.actor.__dict__
        fields = {
            declared.name: codec.encode(members[declared.name], f"state.{declared.name}")
            for declared in self.definition.states
            if declared.name in members
        }
        document = {
            "v": _FORMAT,
            "class": self.definition.name,
            "version": self.definition.version,
            "fields": fields,
        }
        return json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))

    def restore(self, text: str) -> None:
        """Take over what `save` gave, of this version or an earlier one.

        A field that is new keeps its first value; one that is gone is dropped, with a line in the log.

        Raises:
            codec.Corrupt: the text cannot be read.
        """
        try:
            document = json.loads(text)
            version, stored = document["version"], document["fields"]
            if document["v"] != _FORMAT:
                raise codec.Corrupt(f"stored state has format {document['v']}, this SDK reads {_FORMAT}")
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, codec.Corrupt):
                raise
            raise codec.Corrupt(f"stored state cannot be read: {type(error).__name__}: {error}") from None
        definition = self.definition
        if version > definition.version:
            raise codec.Corrupt(
                f"stored state is of version {version}, {definition.name} is at {definition.version}: "
                "deploy the newer version again"
            )
        fields = {name: codec.decode(value) for name, value in stored.items()}
        while version < definition.version:
            migrate = definition.migrations.get(version)
            if migrate is not None:
                changed = migrate(self.actor, fields)
                fields = fields if changed is None else changed
            version += 1
        members = self.actor.__dict__
        for declared in definition.states:
            if declared.name in fields:
                members[declared.name] = fields.pop(declared.name)
        if definition.machine is not None and members[FSM_FIELD] not in definition.machine.states:
            raise codec.Corrupt(
                f"stored fsm_state {members[FSM_FIELD]!r} is not a state of {definition.name}: migrate the state"
            )
        if fields:
            self._log("warn", f"{definition.name} dropped stored fields it no longer declares: {', '.join(fields)}")


def _nested(envelope: Envelope) -> InvalidArguments:
    return InvalidArguments(
        "invalid-arguments", f"{envelope.op}: the arguments nest more than {DEPTH_MAX} deep", depth_max=DEPTH_MAX
    )


def make_dispatcher_factory(
    definitions: Mapping[str, ActorDefinition], kinds: Any, log: Callable[[str, str], None]
) -> Callable[..., Dispatcher]:
    """A function that makes the dispatcher for a role."""
    equipped = {role: (definition, equip(definition)) for role, definition in definitions.items()}

    def find(role: str) -> tuple[ActorDefinition, Calls] | None:
        if role == "" and len(equipped) == 1:
            return next(iter(equipped.values()))
        return equipped.get(role) or next((known for known in equipped.values() if known[0].name == role), None)

    def make(role: str, actor_id: str, *, lenient: bool) -> Dispatcher:
        found = find(role)
        if found is None:
            roles = ", ".join(repr(name) for name in definitions)
            hint = suggest(role, definitions)
            raise Refuse("unknown-role", f"this component has no role {role!r}{hint} (roles: {roles})", role=role)
        definition, calls = found
        return Dispatcher(definition, calls, kinds, actor_id, log, lenient=lenient)

    return make
