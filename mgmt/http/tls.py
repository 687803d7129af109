"""TLS of servers and clients (GAP-22): certificates from files, TLS 1.2 or newer, peers that are verified.

A server shows its certificate; with an authority it also asks clients for theirs (mutual TLS). A client verifies the
server against an authority of its own, or the system's where none is named, and shows its certificate where it has one.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COMMON_NAME = "commonName"
_ROLE = "organizationalUnitName"


class TlsError(ValueError):
    """A certificate, key or authority that cannot be used; one line that names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The files of a server. With ``authority`` clients may show a certificate of it, and must with ``mutual``."""

    certificate: Path
    key: Path
    authority: Path | None = None
    mutual: bool = False

    def context(self) -> ssl.SSLContext:
        """The context to serve with. Raises :class:`TlsError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _show(context, self.certificate, self.key)
        if self.authority is not None:
            _trust(context, self.authority)
            context.verify_mode = ssl.CERT_REQUIRED if self.mutual else ssl.CERT_OPTIONAL
        elif self.mutual:
            raise TlsError("client certificates need the authority that signed them: --tls-ca FILE")
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """The files of a client, each optional: the authority that its servers are signed by, and its own certificate."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """The context to connect with: the server's name is checked. Raises :class:`TlsError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.authority is not None:
            _trust(context, self.authority)
        else:
            context.load_default_certs()
        if (self.certificate is None) != (self.key is None):
            raise TlsError("a certificate and its key go together: give both or neither")
        if self.certificate is not None and self.key is not None:
            _show(context, self.certificate, self.key)
        return context


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for file in (certificate, key):
        _readable(file)
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        raise TlsError(f"others can read the key in {key}: chmod 600 {key}")
    try:
        # An encrypted key is refused instead of asking for its password on a terminal that is not there.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise TlsError(
            f"cannot use the certificate {certificate} with the key {key}: {_why(error)}"
        ) from None


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    _readable(authority)
    try:
        context.load_verify_locations(authority)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise TlsError(f"cannot use the authority in {authority}: {_why(error)}") from None


def _readable(file: Path) -> None:
    try:
        with file.open("rb"):
            return
    except OSError as error:
        raise TlsError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from None


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate in PEM form").replace("_", " ").lower()
    return str(error).lower()


@dataclass(frozen=True, slots=True)
class CertifiedName:
    """Whom a verified client certificate names: its common name, and its organizational unit, its role here."""

    name: str
    role: str


def certified_name(certificate: Mapping[str, Any] | None) -> CertifiedName | None:
    """The name in what :meth:`ssl.SSLSocket.getpeercert` returned, or ``None`` where no certificate was shown."""
    if not certificate:
        return None
    said = {key: value for part in certificate.get("subject", ()) for key, value in part}
    return CertifiedName(str(said.get(_COMMON_NAME, "")), str(said.get(_ROLE, "")))
