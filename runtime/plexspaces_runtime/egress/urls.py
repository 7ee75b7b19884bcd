"""The one spelling of a method, a host, a path, a query and a header: what is matched is what is sent.

A filter is got round where two programs read one text differently.  So each text from outside is brought into the only
form that has one reading (RFC 3986 section 6, and the WHATWG's for hosts), and what has none is refused, not mended.
Every function here is pure and raises `InvalidArgument`.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_plus

import idna

from ..errors import InvalidArgument, LimitExceeded

PATH_BYTES_MAX: Final = 8 * 1024
HEADER_BYTES_MAX: Final = 32 * 1024
HEADERS_MAX: Final = 64

METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
_PORTS: Final = {"http": 80, "https": 443}

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# Without `*`, so that in a rule it can only be the pattern.
_SEGMENT: Final = _UNRESERVED | frozenset(b"!$&'()+,;=:@")
# Without `;`, which old servers read as `&`, and without `&` and `=`, which stand between parameters.
_QUERY: Final = _UNRESERVED | frozenset(b"!$'()*+,:@/?")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
# Categories of characters that nobody sees or that end a line.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")

# Headers by which a request would say where it goes, where it ends, or that it is another than was matched.
_FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OVERRIDES: Final = frozenset(
    {"x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url"}
)


@dataclass(frozen=True, slots=True)
class Base:
    """Where a link leads.

    Attributes:
        scheme: "http" or "https".
        host: a lower-case ASCII name, or an address as Python's `ipaddress` writes it.
        path: canonical, "" or "/..." without a slash at its end.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.path

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host, if it is an address and no name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Target:
    """A path and its query in their canonical form.

    Attributes:
        segments: of the path, still escaped; a last "" is a slash at the end.
        parameters: of the query in order, name and value still escaped; the value is None without a `=`.
    """

    segments: tuple[str, ...]
    parameters: tuple[tuple[str, str | None], ...] = ()

    @property
    def path(self) -> str:
        return "/" + "/".join(self.segments)

    @property
    def query(self) -> str:
        """Without the question mark."""
        return "&".join(name if value is None else f"{name}={value}" for name, value in self.parameters)

    @property
    def text(self) -> str:
        return self.path + (f"?{self.query}" if self.parameters else "")

    @property
    def names(self) -> frozenset[str]:
        """The names of the parameters, escaped."""
        return frozenset(name for name, _ in self.parameters)

    @property
    def plain_names(self) -> frozenset[str]:
        """The names of the parameters as a server reads them."""
        return frozenset(unquote_plus(name) for name, _ in self.parameters)

    def with_parameters(self, parameters: Mapping[str, str]) -> Target:
        """These parameters in place of those of the same name; names and values as they are, not escaped."""
        ours = tuple((escape_parameter(name), escape_parameter(value)) for name, value in parameters.items())
        theirs = (each for each in self.parameters if unquote_plus(each[0]) not in parameters)
        return Target(self.segments, (*theirs, *ours))


# -- method ------------------------------------------------------------------------------------------------


def canonical_method(text: str) -> str:
    """The method in capitals; one of `METHODS`."""
    # `str.upper` would make an ASCII letter of some that are none.
    method = text.upper() if text.isascii() else text
    if method not in METHODS:
        raise InvalidArgument(f"{_shown(text)} is no method of a service link; there are {', '.join(METHODS)}")
    return method


# -- host --------------------------------------------------------------------------------------------------


def parse_base(text: str) -> Base:
    """Read a base URL: scheme, host, perhaps a port and a path; nothing else."""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)(.*)", text, re.DOTALL)
    if found is None:
        raise InvalidArgument(f'{_shown(text)} is no base URL: write one as "https://api.example.com"')
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if scheme not in _PORTS:
        raise InvalidArgument(f"a link speaks http or https, not {scheme!r}")
    if "@" in authority:
        raise InvalidArgument("a base URL holds no user and password: write them in `auth`")
    host, port = _split_port(authority)
    if path.strip("/") == "":
        segments: tuple[str, ...] = ()
        if len(path) > 1:
            raise InvalidArgument("the path of a base URL has no empty segments")
    else:
        if "?" in path:
            raise InvalidArgument("a base URL has no query: write its parameters in `query`")
        segments = canonical_target(path).segments
        segments = segments[:-1] if segments[-1] == "" else segments
    return Base(
        scheme=scheme,
        host=canonical_host(host),
        port=_PORTS[scheme] if port == "" else _port(port),
        path="".join(f"/{segment}" for segment in segments),
    )


def _split_port(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidArgument(f"{_shown(authority)} is no host: an IPv6 address stands between [ and ]")
        return host + bracket, rest[1:]
    host, _, port = authority.partition(":")
    return host, port


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise InvalidArgument(f"{_shown(text)} is no port: write a number from 1 to 65535")
    return int(text)


def canonical_host(text: str) -> str:
    """A host's name in lower-case ASCII (UTS 46), or its address in the usual form, whatever it was spelt like.

    Addresses are recognised as a browser does (the WHATWG's URL Standard, section 3.5): `0x7f.1`, `017700000001` and
    `2130706433` are 127.0.0.1, because some resolver will say so.
    """
    if text.startswith("["):
        if "%" in text:
            raise InvalidArgument("an address with a zone leads to this machine's network only, and to no service")
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise InvalidArgument(f"{_shown(text)} is no IPv6 address") from None
    try:
        name = idna.encode(text, uts46=True, transitional=False).decode("ascii").lower() if text else ""
    except idna.IDNAError:
        # The codec's rules leave out names with an underscore, which exist.
        name = text.lower()
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", label) for label in labels):
        raise InvalidArgument(f"{_shown(text)} is no host name")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        return _ipv4(text, labels)
    return name


def _ipv4(text: str, labels: list[str]) -> str:
    """An IPv4 address of one to four parts, each decimal, octal or hexadecimal; the last fills what is left."""
    try:
        parts = [_part(label) for label in labels]
        *first, last = parts
        if len(parts) > 4 or any(part > 255 for part in first) or last >= 256 ** (5 - len(parts)):
            raise ValueError(text)
    except ValueError:
        raise InvalidArgument(f"{_shown(text)} ends like an address and is none") from None
    number = last + sum(part * 256 ** (3 - position) for position, part in enumerate(first))
    return str(ipaddress.IPv4Address(number))


def _part(label: str) -> int:
    if label.startswith("0x"):
        return int(label[2:] or "0", 16)
    return int(label, 8) if len(label) > 1 and label.startswith("0") else int(label, 10)


# -- path and query ----------------------------------------------------------------------------------------


def canonical_target(text: str) -> Target:
    """Read a path with its query.

    Refused: whatever does not begin with one slash, empty and dot segments, a fragment, backslashes, an escaped
    slash, backslash, NUL or control character, what is escaped twice, text that is no UTF-8, and characters that
    another program's normalisation would make any of these.
    """
    if len(text.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
        raise LimitExceeded(
            f"the path is longer than {PATH_BYTES_MAX} bytes", limit="path_bytes_max", value=PATH_BYTES_MAX
        )
    if not text.startswith("/"):
        raise InvalidArgument(f"the path {_shown(text)} does not begin with '/': a request names no host, only a path")
    if "#" in text:
        raise InvalidArgument(f"the path {_shown(text)} has a fragment, which is never sent: write %23 for a '#'")
    path, mark, query = text.partition("?")
    segments = tuple(_segment(segment) for segment in path[1:].split("/"))
    if "" in segments[:-1]:
        raise InvalidArgument(f"the path {_shown(text)} has an empty segment ('//')")
    return Target(segments, _parameters(query) if mark else ())


def _segment(text: str) -> str:
    raw = _unescape(text, "the path")
    try:
        plain = raw.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"the path segment {_shown(text)} is no UTF-8") from None
    # What a server's own normalisation would make of it counts as well.
    for form in (plain, unicodedata.normalize("NFKC", plain)):
        if _ESCAPE.search(form):
            raise InvalidArgument(f"the path segment {_shown(text)} is escaped twice")
        if any(char in "/\\" or unicodedata.category(char) in _UNSEEN for char in form):
            raise InvalidArgument(
                f"the path segment {_shown(text)} holds a slash, a backslash or a control character, escaped or not"
            )
        # Some servers cut off `;...`, others dots and blanks at the end, before they look at the rest.
        name = form.partition(";")[0]
        if name.strip(". ") == "" and name != "":
            raise InvalidArgument(f"the path segment {_shown(text)} is a dot segment: write the path that is meant")
        if name == "" and form != "":
            raise InvalidArgument(f"the path segment {_shown(text)} is nothing but parameters")
    return _escape(raw, _SEGMENT)


def _parameters(query: str) -> tuple[tuple[str, str | None], ...]:
    read = []
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if part:
            read.append((_parameter(name), _parameter(value) if equals else None))
    return tuple(read)


def _parameter(text: str) -> str:
    raw = _unescape(text, "the query")
    if b"\x00" in raw:
        raise InvalidArgument("the query holds a NUL")
    return _escape(raw, _QUERY)


def escape_parameter(text: str) -> str:
    """A name or value of a query, as it is sent; nothing in `text` is an escape yet."""
    # `+` is a blank to most servers.
    return _escape(text.encode(), _QUERY - {ord("+")})


def _unescape(text: str, what: str) -> bytes:
    """The bytes that `text` stands for."""
    if any(unicodedata.category(char) in _UNSEEN for char in text):
        raise InvalidArgument(f"{what} holds a control character or one that nobody sees: escape it")
    if "%" in _ESCAPE.sub("", text):
        raise InvalidArgument(f"{what} has a '%' that begins no escape: write %25 for one")
    parts = _ESCAPE.split(text)
    # `split` puts the two digits at every second place.
    return b"".join(bytes.fromhex(part) if at % 2 else part.encode() for at, part in enumerate(parts))


def _escape(raw: bytes, plain: frozenset[int]) -> str:
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)


# -- headers -----------------------------------------------------------------------------------------------


def canonical_headers(
    headers: Mapping[str, str], *, taken: Iterable[str] = (), cookies: bool = False
) -> dict[str, str]:
    """A guest's headers by lower-case name.

    Args:
        headers: as the guest wrote them.
        taken: lower-case names of headers that the link writes with a secret.
        cookies: whether the guest may send some.
    """
    if len(headers) > HEADERS_MAX:
        raise LimitExceeded(
            f"a request has more than {HEADERS_MAX} headers", limit="headers_max", value=HEADERS_MAX, unit="headers"
        )
    if sum(len(name) + len(value) for name, value in headers.items()) > HEADER_BYTES_MAX:
        raise LimitExceeded(
            f"the headers are longer than {HEADER_BYTES_MAX} bytes", limit="header_bytes_max", value=HEADER_BYTES_MAX
        )
    ours = {_folded(name) for name in taken}
    read: dict[str, str] = {}
    for written, value in headers.items():
        name = written.lower()
        if not _TOKEN.fullmatch(written):
            raise InvalidArgument(f"{_shown(written)} is no name of a header")
        check_header_value(name, value)
        if name in read:
            raise InvalidArgument(f"the header {name!r} is there twice")
        if _folded(name) in ours:
            raise InvalidArgument(f"the header {name!r} is written by the link: leave it out")
        if (reason := _forbidden(_folded(name), cookies)) is not None:
            raise InvalidArgument(f"the header {name!r} cannot be sent: {reason}")
        read[name] = value.strip(" \t")
    return read


def check_header_value(name: str, value: str) -> None:
    """Raises `InvalidArgument` if `value` would end the header or is no ASCII; the value is not shown."""
    if not _HEADER_VALUE.fullmatch(value):
        raise InvalidArgument(
            f"the header {name!r} holds a line end, a control character or what is no ASCII: encode it"
        )


def _folded(name: str) -> str:
    # CGI and what learnt from it read `_` and `-` as one.
    return name.lower().replace("_", "-")


def _forbidden(name: str, cookies: bool) -> str | None:
    if name in _FRAMING or name.startswith("proxy-"):
        return "it is between the node and the service"
    if name in _OVERRIDES:
        return "the service could take the request for another one than was allowed"
    if name in {"cookie", "cookie2"} and not cookies:
        return "the link does not say `cookies = true`"
    return None


def _shown(text: str) -> str:
    return repr(text[:80]) + ("..." if len(text) > 80 else "")
