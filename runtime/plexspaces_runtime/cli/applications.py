"""An application on its way from app-config.toml to the node: read, its components built or found, sent as one form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..build.findings import BuildFailed, Finding
from .client import NodeClient
from .output import CommandError, count_text

if TYPE_CHECKING:
    from ..deployment.appconfig import AppConfig

# Build a source into a file.
Build = Callable[[Path, Path], object]


@dataclass(frozen=True, slots=True)
class Application:
    """A configuration that is right in itself, and whose components are where it says.

    Attributes:
        text: as it is sent.
        sources: by the component's name: a .wasm file, or what is built to one.
    """

    text: str
    config: AppConfig
    sources: dict[str, Path]

    @property
    def summary(self) -> str:
        """What it is, on one line."""
        actors = count_text(sum(1 for _ in self.config.actors()), "actor")
        components = count_text(len(self.sources), "component")
        return f"application {self.config.name} in namespace {self.config.namespace}: {actors}, {components}"


def read_application(file: Path) -> Application:
    """Read an app-config.toml; what it names is relative to it.

    Raises:
        ConfigError: it has mistakes; all are listed.
        CommandError: it cannot be read, or a component is not where it says.
    """
    from ..config import ConfigError
    from ..deployment import appconfig

    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        hint = "plexspaces deploy FILE.py, or app-config.toml"
        raise CommandError(f"{file}: cannot be read: {error.strerror}", hint) from None
    except UnicodeDecodeError:
        raise CommandError(f"{file}: is not UTF-8", "save it as UTF-8") from None
    config = appconfig.parse(text, file=str(file))
    sources: dict[str, Path] = {}
    issues = []
    for component in config.components:
        key, written = ("path", component.path) if component.path is not None else ("source", component.source)
        path = sources[component.name] = file.parent / Path(written or "").expanduser()
        place = f"{file}:{component.line}: components[{component.name}].{key}"
        if not path.exists():
            issues.append(f"{place}: there is no {path}; {key} is relative to {file.name}")
        elif key == "path" and path.is_dir():
            issues.append(f"{place}: {path} is a directory; a component that is to be built is given by source")
        elif key == "path" and path.suffix == ".py":
            issues.append(f"{place}: {path} is a source; write source = {written!r}")
        elif key == "source" and path.suffix == ".wasm":
            issues.append(f"{place}: {path} is built already; write path = {written!r}")
    if issues:
        raise ConfigError(issues)
    return Application(text, config, sources)


def load_components(application: Application, build: Build) -> dict[str, bytes]:
    """Each component's wasm, built where it has to be.

    Raises:
        BuildFailed: sources have mistakes; those of all components are listed.
    """
    found: dict[str, bytes] = {}
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="plexspaces-") as folder:
        output = Path(folder, "component.wasm")
        for component in application.config.components:
            source = application.sources[component.name]
            if component.path is not None:
                found[component.name] = source.read_bytes()
                continue
            try:
                build(source, output)
            except BuildFailed as failed:
                findings += failed.findings
            else:
                found[component.name] = output.read_bytes()
    if findings:
        raise BuildFailed(findings)
    return found


def send_application(client: NodeClient, application: Application, components: dict[str, bytes]) -> Any:
    """Deploy it; the node's answer.

    Raises:
        CommandError: the node cannot be reached, or it refused.
    """
    files = {name: (f"{name}.wasm", wasm, "application/wasm") for name, wasm in components.items()}
    return client.call("POST", "/api/v1/applications", form={"config": application.text}, files=files)
