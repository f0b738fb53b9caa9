"""The expiry of the server's TLS certificate."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.certificates import ONE
from zmsd.gateway import tls


@pytest.fixture
def cert(tmp_path: Path) -> Path:
    return tmp_path / "server.crt"


def test_expiry_of_certificate_with_text_before_it_is_read(cert: Path) -> None:
    cert.write_text("some words before it\n" + ONE.cert)
    assert tls.expiry(cert) == 4733510400  # 2120-01-01, a GeneralizedTime


@pytest.mark.parametrize("days", [1, 29, 31, 400])
def test_expiry_agrees_with_openssl(cert: Path, days: int) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days), "-subj", "/CN=a/O=b"]
    try:
        subprocess.run([*command, "-keyout", "/dev/null", "-out", str(cert)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl")
    command = ["openssl", "x509", "-in", str(cert), "-noout", "-enddate"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ends = tls.expiry(cert)
    assert ends is not None
    end = shown.strip().partition("=")[2]
    asked = subprocess.run(["date", "-u", "-d", end, "+%s"], check=True, capture_output=True, text=True)
    assert int(asked.stdout) == ends
    warning = tls.expiry_warning(cert, ends - days * 86400)
    assert (warning is not None) == (days < 30)
    assert "expired at" in str(tls.expiry_warning(cert, ends + 1))


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"])
def test_expiry_of_unreadable_certificate_is_unknown(cert: Path, text: str) -> None:
    assert tls.expiry(cert) is None
    cert.write_text(text)
    assert tls.expiry(cert) is None
    assert tls.expiry_warning(cert, 0) is None
