"""The driver's error about a URI, or a file that it names, becomes one line that names the wrong option."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from tests.support.certificates import ONE, TWO
from zmsd.config import mongodb_uri


def problem(uri: str) -> str:
    with pytest.raises(ValueError, match=".") as raised:
        mongodb_uri.database_of(uri)
    text = str(raised.value)
    assert "\n" not in text
    assert "_ssl.c" not in text
    assert "Errno" not in text
    assert "<class" not in text
    return text


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "none.pem").write_text("no PEM")
    (tmp_path / "good.pem").write_text(ONE.cert + ONE.key)
    (tmp_path / "der.pem").write_bytes(ssl.PEM_cert_to_DER_cert(ONE.cert))
    (tmp_path / "certificate.pem").write_text(ONE.cert)
    (tmp_path / "mismatch.pem").write_text(ONE.cert + TWO.key)
    return tmp_path


@pytest.mark.parametrize("scheme", ["mongodb", "mongodb+srv"])
@pytest.mark.parametrize("option", ["tlsCAFile", "tlsCertificateKeyFile", "tlsCRLFile"])
@pytest.mark.parametrize("name", ["missing.pem", "empty.pem", "none.pem", "der.pem", "."])
def test_file_that_cannot_be_used_is_named(scheme: str, option: str, name: str, files: Path) -> None:
    path = files / name
    uri = f"{scheme}://u:SECRET@h.example.invalid/db?tls=true&{option}={path}"
    text = problem(uri)
    assert text.startswith(f"{option}: {path}")
    assert "SECRET" not in text
    reasons = {"missing.pem": "No such file or directory", ".": "Is a directory"}
    assert reasons.get(name, "is not a PEM file with ") in text


@pytest.mark.parametrize("name", ["certificate.pem", "mismatch.pem"])
def test_certificate_without_its_key_is_named(name: str, files: Path) -> None:
    text = problem(f"mongodb://h/db?tls=true&tlsCertificateKeyFile={files / name}")
    assert text.startswith(
        f"tlsCertificateKeyFile: {files / name} is not a PEM file with a certificate and its private"
    )


def test_unknown_option_is_named() -> None:
    text = problem("mongodb://u:SECRET@h/db?replicaSet=rs0&useNewUrlParser=true&w=1")
    assert text.startswith("Unknown option useNewUrlParser. Did you mean one of (")
    assert "SECRET" not in problem("mongodb://u:p?SECRET=x@h/db?w=1")


def test_name_of_a_database_with_a_dot_is_refused() -> None:
    """The driver takes what follows the dot for a collection, so another database would be published."""
    assert "has no dot" in problem("mongodb://h/shop.v2?replicaSet=rs0")


def test_files_that_can_be_used_are_accepted(files: Path) -> None:
    uri = f"mongodb://h/db?tls=true&tlsCAFile={files}/good.pem&tlsCertificateKeyFile={files}/good.pem"
    assert mongodb_uri.database_of(uri) == "db"
    assert mongodb_uri.client_options(uri) == {"tlsCertificateKeyFilePassword": ""}, "never asked for on a terminal"
    assert mongodb_uri.client_options(f"{uri}&tlsCertificateKeyFilePassword=x") == {}


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("datetime_conversion=datetimex", "the value of datetime_conversion is not valid"),
        ("driver=x", "the value of driver is not valid"),
        ("server_api=1", "the value of server_api is not valid"),
        ("authMechanismProperties=SECRET", "Malformed auth mechanism properties"),
        ("authMechanism=MONGODB-OIDC", "MONGODB-OIDC"),
        ("maxStalenessSeconds=100", "maxStalenessSeconds"),
        ("heartbeatFrequencyMS=1", "heartbeatFrequencyMS"),
        ("tlsInsecure=true&tlsAllowInvalidCertificates=true", "tlsInsecure"),
        ("readConcernLevel=snapshot", "readConcernLevel=snapshot cannot be honoured"),
        ("readConcernLevel=foo", "readConcernLevel=foo cannot be honoured"),
        ("directConnection=true&readPreference=secondary", "readPreference=secondary cannot be honoured"),
        ("loadBalanced=true", "loadBalanced=true cannot be honoured"),
    ],
)
def test_option_that_cannot_be_used_is_named(option: str, text: str) -> None:
    found = problem(f"mongodb://u:SECRET@h/db?{option}")
    assert text in found
    assert "SECRET" not in found


@pytest.mark.parametrize("option", ["readConcernLevel=majority", "readPreference=secondary", "readConcernLevel=local"])
def test_option_that_is_honoured_is_accepted(option: str) -> None:
    assert mongodb_uri.database_of(f"mongodb://h/db?{option}") == "db"
