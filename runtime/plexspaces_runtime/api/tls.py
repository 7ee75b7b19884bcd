"""TLS for both doors: the node's certificate and key, whose clients are let in, and new files while the node runs.

The files are looked at when a client connects, at most once a second, so that a renewed certificate is served without a
signal and an idle node does not wake.  New ones are used whole or not at all: while certificate and key do not belong
together, as in the middle of a renewal, the old ones are served.  Connections that are open keep what they have.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from ..clock import Clock
from ..config import TlsConfig
from ..errors import InvalidArgument, PermissionDenied
from ..events import CertificateLoaded, CertificateRefused, ClientCertified, ClientRefused, Event
from ..stores.keyfiles import check_private

_LOOK_EVERY_NS: Final = 1_000_000_000
_FILE_BYTES_MAX: Final = 1 << 20
_DAY_S: Final = 86_400
# Of TLS 1.2: forward secrecy and authenticated encryption.  TLS 1.3 has nothing else.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_SEEN_MAX: Final = 4_096

_Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom a client's certificate names.

    Attributes:
        subject: as RFC 4514 writes it.
        names: its common names, DNS names, URIs, mail and network addresses.
    """

    subject: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Material:
    """What the files hold, checked.

    Attributes:
        context: for servers of HTTP.
        certificate, key, client_ca: as they are written, for gRPC.
    """

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_ca: bytes | None
    leaf: x509.Certificate


class Certificates:
    """The certificate that the node shows, and its verdict on those that clients show.

    Args:
        config: where the files are; `on`.
        clock: for how long certificates last, and how often the files are looked at.
        emit: is told of new certificates and of clients.  Called on any thread.

    Raises:
        InvalidArgument: the files cannot be used; the message says why and what to do.
    """

    def __init__(self, config: TlsConfig, clock: Clock, emit: Callable[[Event], None] = lambda _event: None) -> None:
        self._config = config
        self._clock = clock
        self._emit = emit
        # gRPC asks on threads of its own.
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._looked_ns = clock.monotonic_ns()
        self._material = load(config)
        self._tell()
        # A server keeps the context that it was started with; each client is answered with the newest.
        self.context = self._material.context
        self.context.sni_callback = self._choose
        self._given = self._material
        self._seen: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    @property
    def material(self) -> Material:
        """What is served now."""
        return self._material

    def refresh(self, *, at_once: bool = False) -> bool:
        """Look whether the files have changed, and use them if they can be used.

        Args:
            at_once: also if they were looked at within the last second, or have not changed.

        Returns:
            Whether they are served from now on.
        """
        with self._lock:
            now_ns = self._clock.monotonic_ns()
            if not at_once and now_ns - self._looked_ns < _LOOK_EVERY_NS:
                return False
            self._looked_ns = now_ns
            stamp = self._look()
            if stamp == self._stamp and not at_once:
                return False
            try:
                material = load(self._config)
                if self._look() != stamp:
                    raise InvalidArgument("the files of TLS are being written: they are looked at again")
            except InvalidArgument as error:
                # Told once for each state of the files, not for each client that comes meanwhile.
                self._stamp = stamp
                self._emit(CertificateRefused(error.message))
                return False
            self._stamp, self._material = stamp, material
            self._tell()
            return True

    def grpc_credentials(self) -> Any:
        """Credentials for a server of gRPC, which asks for the newest files with each client."""
        import grpc  # type: ignore[import-untyped,unused-ignore]

        def configuration() -> Any:
            material = self._material
            pairs = [(material.key, material.certificate)]
            return grpc.ssl_server_certificate_configuration(pairs, material.client_ca)

        def newest() -> Any:
            # HTTP's clients make the files be looked at as well.
            self.refresh()
            if self._given is self._material:
                return None
            self._given = self._material
            return configuration()

        required = self._config.client_auth == "required"
        return grpc.dynamic_ssl_server_credentials(configuration(), newest, required)

    def admit(self, door: str, address: str, certificate: bytes | None) -> None:
        """Let a client in by its certificate.

        Args:
            door: `http` or `grpc`.
            address: whence it comes.
            certificate: in DER or PEM, verified; None for a client that has shown none.

        Raises:
            PermissionDenied: it carries none of the names that are wanted.
        """
        if certificate is None:
            # Where one is required, TLS has refused the client already.
            return
        seen = address, certificate
        verdict = self._seen.get(seen)
        if verdict is None:
            verdict = self._seen[seen] = self._judge(door, address, certificate)
            if len(self._seen) > _SEEN_MAX:
                self._seen.popitem(last=False)
        if verdict:
            raise PermissionDenied(verdict)

    def _judge(self, door: str, address: str, certificate: bytes) -> str:
        peer = read_peer(certificate)
        wanted = self._config.client_names
        if wanted and not peer.names.intersection(wanted):
            self._emit(ClientRefused(door, address, peer.subject, tuple(sorted(peer.names))))
            return (
                f"the client's certificate ({peer.subject}) carries none of the names that may connect "
                "(client_names in [tls] of the node's configuration)"
            )
        self._emit(ClientCertified(door, address, peer.subject, tuple(sorted(peer.names))))
        return ""

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        self.refresh()
        connection.context = self._material.context

    def _look(self) -> _Stamp:
        found = []
        for path in (self._config.cert_file, self._config.key_file, self._config.client_ca_file):
            if path is not None:
                try:
                    status = path.stat()
                    found.append((status.st_ino, status.st_size, status.st_mtime_ns))
                except OSError as error:
                    found.append((0, 0, error.errno or 0))
        return tuple(found)

    def _tell(self) -> None:
        leaf = self._material.leaf
        left_s = leaf.not_valid_after_utc.timestamp() - self._clock.now_ns() / 1e9
        peer = _peer(leaf)
        self._emit(CertificateLoaded(peer.subject, tuple(sorted(peer.names)), int(left_s // _DAY_S)))


def load(config: TlsConfig) -> Material:
    """Read and check the files.

    Raises:
        InvalidArgument: one is missing, is not what it should be, or they do not belong together.
    """
    certificate_path, key_path = _paths(config)
    certificate = _read(certificate_path)
    key = _read(key_path, private=True)
    client_ca = _read(config.client_ca_file) if config.client_ca_file is not None else None
    leaf = _parse_chain(certificate_path, certificate)[0]
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise InvalidArgument(
            f"{key_path} is protected by a passphrase, and nobody is there to type it when the node starts: "
            f"openssl pkey -in {key_path} -out NEW.pem, and keep that at mode 0600"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgument(f"{key_path} holds no private key in PEM") from None
    plain = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*plain) != leaf.public_key().public_bytes(*plain):
        raise InvalidArgument(f"{key_path} is not the key of the first certificate in {certificate_path}")
    context = _make_context(config)
    try:
        # A passphrase is never asked for: this would wait at a terminal.
        context.load_cert_chain(certificate_path, key_path, password="")
    except (ssl.SSLError, OSError) as error:
        raise InvalidArgument(f"{certificate_path} cannot be used for TLS: {error}") from None
    if client_ca is not None:
        assert config.client_ca_file is not None
        roots = _parse_chain(config.client_ca_file, client_ca)
        context.load_verify_locations(cadata=b"".join(each.public_bytes(Encoding.DER) for each in roots))
    return Material(context, certificate, key, client_ca, leaf)


def _make_context(config: TlsConfig) -> ssl.SSLContext:
    """A server's context without its certificates: TLS 1.2 or 1.3, HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    match config.client_auth:
        case "required":
            context.verify_mode = ssl.CERT_REQUIRED
        case "optional":
            context.verify_mode = ssl.CERT_OPTIONAL
    if config.client_auth != "none":
        # A resumed session is not asked for its certificate again, which may have been withdrawn.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def read_peer(certificate: bytes) -> Peer:
    """Whom a certificate names.

    Args:
        certificate: in DER or PEM.
    """
    is_pem = certificate.startswith(b"-----")
    return _peer(
        x509.load_pem_x509_certificate(certificate) if is_pem else x509.load_der_x509_certificate(certificate)
    )


def _peer(certificate: x509.Certificate) -> Peer:
    names = {str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)}
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        for each in extension.value:
            if isinstance(each.value, str | ipaddress.IPv4Address | ipaddress.IPv6Address):
                names.add(str(each.value))
    except (x509.ExtensionNotFound, ValueError):
        pass  # No alternative names, or none that can be read.
    return Peer(certificate.subject.rfc4514_string(), frozenset(names))


def _paths(config: TlsConfig) -> tuple[Path, Path]:
    assert config.cert_file is not None
    assert config.key_file is not None
    return config.cert_file, config.key_file


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        # Links are followed: that is how certificates are renewed.  What they lead to is what is checked.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    with open(descriptor, "rb") as file:
        if private:
            check_private(path, os.fstat(file.fileno()), stat.S_ISREG)
        return file.read(_FILE_BYTES_MAX)


def _parse_chain(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidArgument(f"{path} holds no certificate in PEM: {error}") from None
