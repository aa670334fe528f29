"""`overweave pki`: what it makes, what it refuses, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from dataplane import durable
from dataplane.cli.main import run
from dataplane.core.errors import InvalidValueError
from dataplane.pki import certificates
from dataplane.pki.authority import Authority
from dataplane.pki.certificates import Holder, Role
from dataplane.pki.credentials import Credentials
from tests.functional.certificates import DAY, NOW, Pki, put


def openssl(*words: str) -> str:
    """Ask a program that shares no code with the product."""
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "pki"


@pytest.fixture
def pki(directory: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        status = run(["pki", *words, "--dir", str(directory)])
        told = capsys.readouterr()
        return status, told.out + told.err

    return call


Command = Callable[..., tuple[int, str]]


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mode & 0o777, p.read_bytes()) for p in directory.glob("*.pem")}


def test_what_is_made_as_another_program_reads_it(pki: Command, directory: Path) -> None:
    previous = os.umask(0)  # what is secret is so by itself
    try:
        for command in (("init",), ("issue", "h1"), ("issue", "red", "--role", "tenant")):
            assert pki(*command)[0] == 0
    finally:
        os.umask(previous)
    modes = {name: oct(mode) for name, (mode, _) in snapshot(directory).items()}
    assert modes == {
        "cakey.pem": "0o600",
        "cacert.pem": "0o644",
        "h1-privkey.pem": "0o600",
        "h1-cert.pem": "0o644",
        "red-privkey.pem": "0o600",
        "red-cert.pem": "0o644",
    }
    assert directory.stat().st_mode & 0o777 == 0o700
    ca, node, tenant = (str(directory / n) for n in ("cacert.pem", "h1-cert.pem", "red-cert.pem"))
    assert openssl("verify", "-x509_strict", "-CAfile", ca, "-purpose", "sslserver", node).endswith(
        "h1-cert.pem: OK\n"
    )
    assert openssl("verify", "-CAfile", ca, "-purpose", "sslclient", tenant).endswith(": OK\n")
    assert "unsuitable certificate purpose" in openssl(
        "verify", "-CAfile", ca, "-purpose", "sslserver", tenant
    )
    text = openssl("x509", "-in", node, "-noout", "-text")
    for words in (
        "Subject: CN = h1, OU = node",
        "ASN1 OID: prime256v1",
        "DNS:h1",
        "ecdsa-with-SHA256",
        "CA:FALSE",
    ):
        assert words in text
    assert "CA:TRUE, pathlen:0" in openssl("x509", "-in", ca, "-noout", "-text")


def test_it_is_valid_for_as_long_as_was_asked(pki: Command, directory: Path) -> None:
    pki("init")
    pki("issue", "h1")
    pki("issue", "h2", "--days", "7")
    for name, days in (("h1", 90), ("h2", 7)):
        found = certificates.read_certificate((directory / f"{name}-cert.pem").read_bytes())
        assert found.ends - found.begins == timedelta(days=days, minutes=5)
        assert found.begins <= NOW + timedelta(minutes=5)


def test_again_is_the_same(pki: Command, directory: Path) -> None:
    pki("init")
    pki("issue", "h1")
    before = snapshot(directory)
    status, told = pki("init")
    assert (status, told.splitlines()[0]) == (0, f"authority {directory}: was there")
    status, told = pki("issue", "h1")
    assert (status, "h1 (role node): was there, valid until" in told) == (0, True)
    assert snapshot(directory) == before


def test_a_renewed_one_has_another_key_and_the_same_holder(pki: Command, directory: Path) -> None:
    pki("init")
    pki("issue", "h1", "--role", "admin", "--days", "7")
    (directory / "h1-privkey.pem").unlink()  # it was moved to where it is used
    before = certificates.read_certificate((directory / "h1-cert.pem").read_bytes())
    assert pki("renew", "h1")[0] == 0
    after = certificates.read_certificate((directory / "h1-cert.pem").read_bytes())
    assert (after.holder, after.serial != before.serial) == (Holder("h1", Role.ADMIN), True)
    assert after.ends - after.begins == before.ends - before.begins
    key, certificate = (directory / f"h1-{n}.pem" for n in ("privkey", "cert"))
    assert certificates.key_fits(key.read_bytes(), certificate.read_bytes())


def test_rotation(pki: Command, directory: Path) -> None:
    for words in (("init",), ("issue", "h1"), ("issue", "h2")):
        pki(*words)
    old = (directory / "cacert.pem").read_bytes()
    assert pki("rotate")[0] == 0
    both = (directory / "cacert.pem").read_bytes()
    assert both.endswith(old)
    assert pki("issue", "h2")[1].startswith("h2 (role node): was there")
    for name in ("h1", "h3"):
        pki("issue" if name == "h3" else "renew", name)
    for name, trusts in (("h1", [True, False]), ("h2", [False, True]), ("h3", [True, False])):
        held = (directory / f"{name}-cert.pem").read_bytes()
        split = certificates.split(both)
        assert [certificates.is_signed_by(held, each) for each in split] == trusts
    before = snapshot(directory)
    assert pki("rotate", "--finish") == (
        1,
        "overweave: h2: signed by the authority before; renew first: overweave pki renew h2\n",
    )
    assert pki("rotate")[0] == 1
    assert snapshot(directory) == before
    pki("renew", "h2")
    assert pki("rotate", "--finish")[0] == 0
    assert (directory / "cacert.pem").read_bytes() == certificates.split(both)[0]
    assert pki("rotate", "--finish")[0] == 0


REFUSED = [
    pytest.param(["renew", "h9"], 1, "h9-cert.pem is no certificate of a node", id="unknown"),
    pytest.param(["issue", "H1"], 2, "node name 'H1' is not 1-63 lower-case", id="upper case"),
    pytest.param(["issue", "../h1"], 2, "node name '../h1' is not", id="path"),
    pytest.param(["renew", "../h1"], 2, "certificate name '../h1' is not", id="path to renew"),
    pytest.param(["issue", ""], 2, "node name '' is not", id="no name"),
    pytest.param(["issue", "x" * 64], 2, "is not 1-63", id="long name"),
    pytest.param(["issue", "n", "--role", "root"], 2, "'root' is not one of", id="role"),
    pytest.param(["issue", "n", "--days", "0"], 2, "0 is not in the range", id="no day"),
    pytest.param(["issue", "n", "--days", "3651"], 2, "ends on .* fewer", id="outlives"),
    pytest.param(
        ["issue", "h1", "--role", "tenant"],
        1,
        r"h1-cert.pem is there and is of OU=node,CN=h1, not of h1 \(role tenant\)",
        id="another role",
    ),
    pytest.param(["show", "/nowhere.pem"], 2, "/nowhere.pem: No such file", id="no file"),
    pytest.param(["show", __file__], 2, "test_pki.py holds no certificate", id="no certificate"),
]


@pytest.mark.parametrize(("words", "status", "told"), REFUSED)
def test_what_is_refused_leaves_nothing(
    pki: Command, directory: Path, words: list[str], status: int, told: str
) -> None:
    pki("init")
    pki("issue", "h1")
    before = snapshot(directory)
    found, said = pki(*words)
    assert (found, bool(re.search(told, said)), "Traceback" in said) == (status, True, False), said
    assert snapshot(directory) == before
    assert not list(directory.glob("*.partial"))


@pytest.mark.parametrize(
    "words", [("issue", "h1"), ("renew", "h1"), ("rotate",), ("rotate", "--finish"), ("show",)]
)
def test_without_an_authority_the_next_step_is_said(pki: Command, words: tuple[str, ...]) -> None:
    status, told = pki(*words)
    assert status == 1
    assert told.endswith("there is no authority; make one: overweave pki init\n")


DAMAGE = [
    pytest.param("cakey.pem", b"", "holds no certificate as PEM", id="empty key"),
    pytest.param("cakey.pem", b"rubbish", "holds no certificate as PEM", id="rubbish for a key"),
    pytest.param("cacert.pem", b"rubbish", "cacert.pem holds no certificate", id="rubbish"),
    pytest.param("h1-cert.pem", b"rubbish", "h1-cert.pem holds no certificate", id="certificate"),
]


@pytest.mark.parametrize(("name", "content", "told"), DAMAGE)
def test_what_is_damaged_is_named(
    pki: Command, directory: Path, name: str, content: bytes, told: str
) -> None:
    pki("init")
    pki("issue", "h1")
    (directory / name).write_bytes(content)
    for words in (("issue", "h1"), ("show",), ("rotate", "--finish")):
        status, said = pki(*words)
        assert (status, told in said, "Traceback" in said) == (1, True, False), said


def test_somebody_elses_files_are_not_taken_for_ours(pki: Command, directory: Path) -> None:
    pki("init")
    other = Authority(directory.parent / "other")
    other.create(NOW, 100)
    issued = other.issue(Holder("h1", Role.NODE), NOW, 10)
    (directory / "h1-cert.pem").write_bytes(issued.path.read_bytes())
    status, told = pki("issue", "h1")
    assert (status, "h1-cert.pem is signed by none of" in told) == (1, True)
    (directory / "cakey.pem").unlink()
    assert "is there without" in pki("init")[1]


def test_an_expired_one_is_renewed_and_not_made_anew(pki: Command, directory: Path) -> None:
    pki("init")
    Authority(directory).issue(Holder("h1", Role.NODE), NOW - 9 * DAY, 8)
    status, told = pki("show")
    assert (status, "has expired on" in told) == (1, True)
    assert "renew it: overweave pki renew h1" in pki("issue", "h1")[1]
    assert (pki("renew", "h1")[0], pki("show")[0]) == (0, 0)


def test_show_says_who_which_role_and_until_when(pki: Command, directory: Path) -> None:
    pki("init")
    pki("issue", "h1")
    status, told = pki("show", "-o", "json")
    authority, node = json.loads(told)
    assert (status, authority["role"], node["name"], node["role"], node["says"]) == (
        0,
        "authority",
        "h1",
        "node",
        "valid",
    )
    assert (node["issuer"], node["file"]) == (authority["name"], str(directory / "h1-cert.pem"))
    firsts = [line.split()[0] for line in pki("show")[1].splitlines()]
    assert firsts == ["NAME", "CN=Overweave", "h1"]
    assert pki("show", str(directory / "h1-cert.pem"))[1].splitlines()[1].startswith("h1 ")


class Interrupted(Exception):  # noqa: N818 - it is no error of ours
    """The machine went down."""


@pytest.mark.parametrize("step", range(1, 3))
@pytest.mark.parametrize("words", [("init",), ("issue", "h1"), ("renew", "h1"), ("rotate",)])
def test_what_is_interrupted_is_resumed(
    pki: Command,
    directory: Path,
    words: tuple[str, ...],
    step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each command writes two files; whichever was the last, the same command ends the work."""
    if words != ("init",):
        pki("init")
    if words == ("renew", "h1"):
        pki("issue", "h1")
    left, write = step, durable.write

    def dies(path: Path, text: str, mode: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Interrupted
        write(path, text, mode)

    monkeypatch.setattr(durable, "write", dies)
    with pytest.raises(Interrupted):
        pki(*words)
    monkeypatch.undo()
    status, told = pki(*words)
    assert status == 0 or "a rotation is under way" in told
    if words[0] in ("init", "rotate"):
        assert pki("issue", "h1")[0] == 0
    key, certificate = (directory / f"h1-{n}.pem" for n in ("privkey", "cert"))
    if certificate.exists():
        assert certificates.key_fits(key.read_bytes(), certificate.read_bytes())
        trusted = (directory / "cacert.pem").read_bytes()
        assert certificates.is_signed_by(certificate.read_bytes(), trusted)
    assert pki("show")[0] == 0


# --- a node's own files ------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def spoilt(name: str, content: bytes) -> Callable[[Pki], dict[str, Path]]:
    def make(own: Pki) -> dict[str, Path]:
        files = own.node("h1")
        put(files[name], content, 0o600)
        return files

    return make


def gone(name: str) -> Callable[[Pki], dict[str, Path]]:
    def make(own: Pki) -> dict[str, Path]:
        files = own.node("h1")
        files[name].unlink()
        return files

    return make


def readable(own: Pki) -> dict[str, Path]:
    files = own.node("h1")
    files["private_key"].chmod(0o640)
    return files


def mixed(own: Pki) -> dict[str, Path]:
    return {**own.node("h1"), "private_key": own.node("h2")["private_key"]}


RSA = openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-quiet").encode()

UNFIT = [
    pytest.param(gone("private_key"), "private_key .*: No such file", id="no key"),
    pytest.param(gone("certificate"), "certificate .*: No such file", id="no certificate"),
    pytest.param(gone("ca_cert"), "ca_cert .*: No such file", id="no authority"),
    pytest.param(spoilt("private_key", b"rubbish"), "holds no private key", id="rubbish for a key"),
    pytest.param(spoilt("certificate", b"\xff\0"), "holds no certificate", id="bytes"),
    pytest.param(spoilt("certificate", b""), "holds no certificate", id="empty certificate"),
    pytest.param(spoilt("ca_cert", b"x" * 9999), "ca_cert .* holds no certificate", id="long"),
    pytest.param(spoilt("private_key", RSA), "is on no elliptic curve", id="another kind of key"),
    pytest.param(readable, "is not its owner's alone, .* mode is 640; chmod 600", id="readable"),
    pytest.param(mixed, "private_key .* is not the key of certificate .*h1/cert.pem", id="mixed"),
    pytest.param(
        lambda own: own.node("h2"), r"is of h2 \(role node\), and not of h1 \(role", id="another's"
    ),
    pytest.param(
        lambda own: own.node("h1", role=Role.ADMIN), r"is of h1 \(role admin\)", id="no node's"
    ),
    pytest.param(
        lambda own: {**own.node("h1"), "certificate": own.authority.bundle},
        "is of CN=Overweave CA .* and not of h1",
        id="the authority's",
    ),
]


@pytest.mark.parametrize(("make", "told"), UNFIT)
def test_files_that_cannot_be_used(
    own: Pki, make: Callable[[Pki], dict[str, Path]], told: str
) -> None:
    with pytest.raises(InvalidValueError, match=told):
        Credentials(make(own), "h1")


@pytest.mark.parametrize(("make", "told"), UNFIT)
def test_files_that_become_unfit_are_not_taken(
    own: Pki, make: Callable[[Pki], dict[str, Path]], told: str
) -> None:
    files = own.node("h1")
    credentials = Credentials(files, "h1")
    before = credentials.current()
    own.directory = own.directory / "meanwhile"
    own.directory.mkdir()
    unfit = make(own)
    for key, path in files.items():
        unfit[key].rename(path) if unfit[key].exists() else path.unlink()
    with capture_logs() as logs:
        assert [credentials.current(), credentials.current()] == [before, before]
    assert [each["event"] for each in logs] == ["certificate.kept"]
    assert re.search(told.replace("h1/", ""), logs[0]["error"])
    own.directory = files["ca_cert"].parent.parent
    fresh = own.node("h1")
    assert credentials.current().certificate == fresh["certificate"].read_bytes()


def test_a_key_that_was_readable_is_taken_once_it_is_not(own: Pki) -> None:
    files = own.node("h1")
    credentials = Credentials(files, "h1")
    own.node("h1")
    files["private_key"].chmod(0o644)
    credentials.current()
    files["private_key"].chmod(0o600)
    assert credentials.current().private_key == files["private_key"].read_bytes()


def test_an_expired_one_is_taken_and_says_so(own: Pki) -> None:
    """An agent must start with it: what works without must not wait for an administrator."""
    found = Credentials(own.node("h1", when=NOW - 20 * DAY), "h1").current().own
    assert found.fault(NOW).startswith("has expired on 20")
    assert not found.fault(NOW - 15 * DAY)
    assert found.fault(NOW - 21 * DAY).startswith("is not valid before ")


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("/CN=h1", id="no role"),
        pytest.param("/CN=h1/OU=root", id="no such role"),
        pytest.param("/OU=node", id="no name"),
        pytest.param("/CN=h1/OU=node/OU=admin", id="two roles"),
        pytest.param("/CN=h1/CN=h2/OU=node", id="two names"),
    ],
)
def test_whose_subject_is_of_another_make_has_no_role(tmp_path: Path, subject: str) -> None:
    certificate = tmp_path / "c.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(*words, "-subj", subject, "-keyout", str(tmp_path / "k"), "-out", str(certificate))
    assert certificates.read_certificate(certificate.read_bytes()).holder is None
