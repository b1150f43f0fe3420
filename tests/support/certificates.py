"""Certificates for a test's own server, made by the `openssl` program."""

from __future__ import annotations

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
AUTHORITY = """\
[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = authority of one test
[extensions]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""
SERVER = """\
basicConstraints = critical,CA:false
keyUsage = critical,digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def make_certificates(folder: Path, address: str) -> None:
    """Make an authority and a certificate for an address: `ca.crt`, `server.crt` and `server.key` in the folder."""
    (folder / "ca.conf").write_text(AUTHORITY)
    (folder / "server.ext").write_text(f"{SERVER}subjectAltName = IP:{address},DNS:localhost\n")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-set_serial", "1", "-days", "2")
    for command in (
        ("req", "-x509", "-config", "ca.conf", *KEY, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2"),
        ("req", "-config", "ca.conf", "-subj", "/CN=server", *KEY, "-keyout", "server.key", "-out", "server.csr"),
        ("x509", "-req", "-in", "server.csr", "-extfile", "server.ext", *signed, "-out", "server.crt"),
    ):
        done = subprocess.run(["openssl", *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
