"""An actor that does what a test tells it and keeps what it hears; the same class runs sealed and in the test node."""

from plexspaces import actor, handler, host, info_handler, init_handler, state, terminate_handler


@actor
class Puppet:
    heard: list = state(default_factory=list)

    @init_handler
    def start(self, calls: list | None = None, fail: bool = False) -> None:
        for answer in self._do(calls or []):
            self.heard.append(["init", answer])
        if fail:
            raise ValueError("told to fail")

    @handler("do")
    def do(self, calls: list) -> list:
        return self._do(calls)

    @handler("crash")
    def crash(self, text: str = "as told") -> None:
        raise RuntimeError(text)

    @handler("take")
    def take(self) -> list:
        heard, self.heard = self.heard, []
        return heard

    @handler("note")
    def note(self, n: int = 0) -> None:
        self.heard.append(["note", {"n": n}])

    @info_handler
    def info(self, op: str, payload: dict) -> None:
        self.heard.append([op, payload])

    @terminate_handler
    def end(self, reason: str) -> None:
        host.info(f"ended: {reason}")

    def _do(self, calls: list) -> list:
        """Each call is a name in `host`, its arguments ("$0" is the first answer), and perhaps those by name.

        Answers are values, or the codes of errors.
        """
        answers = []
        for name, given, *named in calls:
            arguments = [answers[int(one[1:])] if str(one).startswith("$") else one for one in given]
            function = host
            for part in name.split("."):
                function = getattr(function, part)
            try:
                answers.append(function(*arguments, **(named[0] if named else {})))
            except host.HostError as error:
                answers.append({"code": error.code})
        return answers
