"""What a build has to say about an actor's source: findings, each with its place and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import InvalidArgument


class Severity(Enum):
    """`ERROR` keeps the component from being built, `WARNING` does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong, or might be.

    Args:
        file: as the user named it, or relative to it.
        line: counted from 1; 0 when the whole file is meant.
        message: what is wrong.
        remedy: what to do.
    """

    file: str
    line: int
    message: str
    remedy: str = ""
    severity: Severity = Severity.ERROR

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        text = f"{self.place}: {self.severity.value}: {self.message}"
        return f"{text}\n    {self.remedy}" if self.remedy else text

    def to_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity.value,
            "file": self.file,
            "line": self.line,
            "message": self.message,
            "remedy": self.remedy,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        return cls(data["file"], data["line"], data["message"], data["remedy"], Severity(data["severity"]))


class BuildFailed(InvalidArgument):
    """The source cannot become a component; `findings` say why, errors and warnings alike."""

    def __init__(self, findings: list[Finding]) -> None:
        # One mistake may be seen from two sides (the syntax tree, the running module): once is enough.
        self.findings = sorted(set(findings), key=lambda f: (f.file, f.line, f.severity.value, f.message))
        errors = sum(f.severity is Severity.ERROR for f in self.findings)
        noun = "mistake" if errors == 1 else "mistakes"
        super().__init__(f"{errors} {noun} in the actor; nothing was compiled")
        self.details = {"findings": [f.to_json() for f in self.findings]}


def errors_of(findings: list[Finding]) -> list[Finding]:
    return [f for f in findings if f.severity is Severity.ERROR]
