"""An actor that has every function of the SDK's host as an operation, and keeps what its subscriptions tell it."""

import base64
import dataclasses
from typing import Any

from plexspaces import Refuse, actor, handler, host, state


@actor
class Keeper:
    heard: list = state(default_factory=list)
    # The message whose handler has promised to reply later.
    owed: str = state(default="")

    @handler("*")
    def call(self, op: str, payload: dict) -> Any:
        """The operation is a name in `host`, `kv_get` or `ts.take`: its arguments are `given`, and `named`."""
        return self._call(op, payload.get("given", []), payload.get("named", {}))

    @handler("several")
    def several(self, calls: list) -> list:
        """Calls of one message, each a name, its arguments, and those by name; "$0" stands for the first answer.

        Answers are values, or the codes of errors.
        """
        answers: list = []
        for name, given, named in calls:
            earlier = {f"${number}": answer for number, answer in enumerate(answers)}
            given = [earlier.get(one, one) if isinstance(one, str) else one for one in given]
            answers.append(self._call(name, given, named))
        return answers

    @handler("take_heard")
    def take_heard(self) -> list:
        heard, self.heard = self.heard, []
        return heard

    @handler("crash")
    def crash(self) -> None:
        raise RuntimeError("as told")

    @handler("matched", "cast")
    def matched(self, fields: list) -> None:
        self.heard.append(fields)

    @handler("followed", "cast")
    def followed(self, path: str, offset: int, event_type: str, payload: Any, time_ms: int) -> None:
        self.heard.append([path, offset, event_type, payload])

    @handler("work", "call")
    def work(self, channel: str, id: str, msg_type: str, payload: dict, deliveries: int, enqueued_ms: int) -> Any:
        self.heard.append([channel, msg_type, payload, deliveries])
        match payload.get("then"):
            case "refuse":
                raise Refuse("not-mine", "somebody else does this")
            case "crash":
                raise RuntimeError("as told")
            case "later":
                self.owed = self.context.message_id
                return host.NO_REPLY
            case "bury":
                host.channel.nack("", channel, id, requeue=False)
        return None

    @handler("pay")
    def pay(self) -> None:
        host.reply(self.owed)

    def _call(self, name: str, given: list, named: dict) -> Any:
        function: Any = host
        for part in name.split("."):
            function = getattr(function, part)
        try:
            return _plain(function(*map(_meant, given), **named))
        except host.HostError as error:
            return {"code": error.code, **{key: value for key, value in error.details.items() if key == "limit"}}


def _meant(value: Any) -> Any:
    """JSON cannot say: bytes, a long text, a lease."""
    match value:
        case {"repeat": [text, times]}:
            return text * times
        case {"lock_id": _}:
            return host.Lease(**value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()} if len(value) < 1000 else {"bytes": len(value)}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
