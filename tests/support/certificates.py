"""Certificates that are signed by themselves, and a redis-server behind one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mutirao.embedded import redis_server
from support.redis_servers import RedisServer


class TlsServer(RedisServer):
    """A RedisServer that speaks TLS on a second port; skips the test where the program here was built without it.

    Args:
        folder: where the certificate is made.
    """

    def __init__(self, folder: Path) -> None:
        self.certificate = certificate(folder, f"IP:{redis_server.HOST}")
        self._tls_port = redis_server.free_port()
        options = {
            "tls-port": str(self._tls_port),
            "tls-cert-file": str(self.certificate),
            "tls-key-file": str(folder / "key.pem"),
            "tls-ca-cert-file": str(self.certificate),
            "tls-auth-clients": "no",
        }
        try:
            super().__init__(options=options)
        except AssertionError as exc:
            if "tls" not in str(exc).lower():
                raise
            self.close()
            pytest.skip(f"this redis-server was built without TLS: {str(exc).splitlines()[-1]}")

    @property
    def tls_url(self) -> str:
        return f"rediss://{redis_server.HOST}:{self._tls_port}/0"

    @property
    def trusted_url(self) -> str:
        return f"{self.tls_url}?ssl_ca_certs={self.certificate}"


def certificate(folder: Path, name: str) -> Path:
    """Make a certificate for a name, such as DNS:example.com, and beside it its key, key.pem; skips the test where it cannot."""
    made = folder / "certificate.pem"
    names = f"subjectAltName={name}"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", "/CN=mutirao", "-addext", names, "-keyout", str(folder / "key.pem"), "-out", str(made)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return made
