"""The files that the trainer is given for TLS."""

import re

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


@pytest.fixture(scope="module")
def files(tmp_path_factory, ca):
    """Names in the parametrization below → files."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "empty").touch()
    (folder / "broken").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "rsa").write_bytes(rsa_key)
    pair = ca.client("3")
    return {
        "CA": ca.path,
        "CERT": pair.cert,
        "KEY": pair.key,
        "OTHER": ca.client("4").key,
        "LOCKED": pair.locked(b"secret").key,
        "NONE": folder / "no such file",
        "FOLDER": folder,
        "EMPTY": folder / "empty",
        "BROKEN": folder / "broken",
        "RSA": folder / "rsa",
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--tls-cert CERT --tls-key KEY", "--tls-cert needs --tls-ca: without it nothing is encrypted"),
        ("--tls-key KEY", "--tls-key needs --tls-cert: a key is nothing without its certificate"),
        ("--tls-ca CA --tls-key KEY", "--tls-key needs --tls-cert: a key is nothing without its certificate"),
        ("--tls-ca NONE", "cannot read --tls-ca NONE: No such file or directory"),
        ("--tls-ca FOLDER", "cannot read --tls-ca FOLDER: Is a directory"),
        ("--tls-ca EMPTY", "--tls-ca EMPTY is not a PEM file of certificates"),
        ("--tls-ca KEY", "--tls-ca KEY is not a PEM file of certificates"),
        ("--tls-ca CA --tls-cert NONE --tls-key KEY", "cannot read --tls-cert NONE: No such file or directory"),
        ("--tls-ca CA --tls-cert BROKEN --tls-key KEY", "--tls-cert BROKEN is not a PEM file of certificates"),
        ("--tls-ca CA --tls-cert CERT --tls-key NONE", "cannot read --tls-key NONE: No such file or directory"),
        ("--tls-ca CA --tls-cert CERT --tls-key EMPTY", "--tls-key EMPTY does not hold a private key in PEM form"),
        ("--tls-ca CA --tls-cert CERT --tls-key CERT", "--tls-key CERT does not hold a private key in PEM form"),
        (
            "--tls-ca CA --tls-cert CERT",
            "--tls-cert CERT, without --tls-key, does not hold a private key in PEM form",
        ),
        (
            "--tls-ca CA --tls-cert CERT --tls-key OTHER",
            "--tls-key OTHER does not hold the key of --tls-cert CERT",
        ),
        ("--tls-ca CA --tls-cert CERT --tls-key RSA", "--tls-key RSA does not hold the key of --tls-cert CERT"),
        (
            "--tls-ca CA --tls-cert CERT --tls-key LOCKED",
            "--tls-key LOCKED holds a key that needs a passphrase: give one without",
        ),
    ],
)
def test_files_that_do_not_fit_are_one_line_and_exit_code_2(flclient, files, arguments, reason):
    for name in sorted(files, key=len, reverse=True):
        reason = re.sub(rf"\b{name}\b", str(files[name]), reason)
    words = [files.get(word, word) for word in arguments.split()]
    assert flclient("--client-id", 3, *words) == (2, "", f"flclient: {reason}\n")


def test_an_empty_name_for_the_ca_does_not_mean_plain_text(flclient):
    code, _, err = flclient("--client-id", 3, "--tls-ca", "")
    assert code == 2
    assert err.startswith("flclient: cannot read --tls-ca")
