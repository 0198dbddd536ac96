"""A connection with TLS; in a module of its own because only https pays for importing `ssl`."""

from __future__ import annotations

import functools
import ssl

from engine.errors import ConfigError
from gpu_clients.http.connection import Buffer, Connection, ConnectionState


@functools.cache
def trust_of(ca_file: str | None) -> ssl.SSLContext:
    """Certificates are verified, always: against these authorities, or the system's (or SSL_CERT_FILE).

    Raises:
        ConfigError: the file cannot be read, or holds no certificate.
    """
    if ca_file is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        why = "holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"the file of authorities {ca_file} cannot be used ({why})") from error


class TlsConnection(Connection):
    """Like a plain one, with a handshake first; sent bytes are copied once more, because TLS has to encrypt them."""

    __slots__ = ()

    def established(self) -> None:
        self.move(ConnectionState.HANDSHAKE)
        # wrap_socket takes the descriptor over, so the poller's registration stays valid
        self.sock = trust_of(self._owner.access.ca_file).wrap_socket(
            self.sock, server_hostname=self.host, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.handshake()

    def handshake(self) -> None:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            self.wait_for(writing=False)
        except ssl.SSLWantWriteError:
            self.wait_for(writing=True)
        except OSError as error:
            self.refused(f"TLS handshake failed ({error})")
        else:
            super().established()

    def transmit(self, parts: list[Buffer]) -> int:
        try:
            return self.sock.send(b"".join(parts))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def fill(self, room: memoryview) -> int | None:
        try:
            return self.sock.recv_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLEOFError:
            return 0
