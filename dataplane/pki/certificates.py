"""X.509 certificates (RFC 5280) as values: made, read and judged. No file, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import check_name

CLOCKS_DIFFER = timedelta(minutes=5)  # those of a host and of its DPU: valid from a little earlier
AUTHORITY_DAYS, DAYS = 3650, 90
_AUTHORITY = "Overweave CA"


class Role(StrEnum):
    """What the holder of a certificate may do where gRPC asks for one: the OU of its subject."""

    NODE = "node"
    TENANT = "tenant"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whom a certificate is about: ``name`` is the CN, of a node its name in the fabric."""

    name: str
    role: Role

    def __str__(self) -> str:
        """Name it for a message."""
        return f"{self.name} (role {self.role})"


@dataclass(frozen=True, slots=True)
class Pair:
    """A private key and its certificate, both PEM; of an authority, or signed by one."""

    key: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. ``holder`` is None for an authority, and for one of another make."""

    subject: str
    holder: Holder | None
    issuer: str
    begins: datetime
    ends: datetime
    serial: int

    def fault(self, now: datetime) -> str:
        """Return why it is not valid at ``now``; empty: it is."""
        if now < self.begins:
            return f"is not valid before {shown(self.begins)}; is the clock of this machine right?"
        if now >= self.ends:
            return f"has expired on {shown(self.ends)}"
        return ""

    def warning(self, now: datetime) -> str:
        """Return why it is not valid, or that a tenth of its time is all that is left."""
        is_ending = self.ends - now < (self.ends - self.begins) / 10
        return self.fault(now) or (f"ends on {shown(self.ends)}" if is_ending else "")


def shown(when: datetime) -> str:
    """Return a time as messages have it."""
    return when.strftime("%Y-%m-%d %H:%M UTC")


def make_authority(now: datetime, days: int) -> Pair:
    """Return a new authority that signs itself: a key on P-256 and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Each has a name of its own: who trusts an old and a new one must tell them apart.
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"{_AUTHORITY} {serial % 2**32:08x}")]
    )
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(name, key, serial, now, days)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Pair(_key_pem(key), _pem(certificate))


def issue(authority: Pair, holder: Holder, now: datetime, days: int) -> Pair:
    """Return a new key on P-256 and its certificate, signed by ``authority``.

    Only a node's may be shown by a server, under the node's name. Raises InvalidValueError for a
    name that is none, and if it would be valid longer than the authority.
    """
    check_name(holder.role, holder.name)
    signer, signers_key = _certificate(authority.certificate), _key(authority.key)
    if now + timedelta(days=days) > signer.not_valid_after_utc:
        raise InvalidValueError(
            f"{days} days are more than the authority has left: it ends on"
            f" {shown(signer.not_valid_after_utc)}; give fewer, or make a new authority:"
            " overweave pki rotate"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, holder.name),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, holder.role),
    ]
    is_node = holder.role is Role.NODE
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    purposes += [ExtendedKeyUsageOID.SERVER_AUTH] if is_node else []
    builder = (
        _builder(x509.Name(subject), key, x509.random_serial_number(), now, days)
        .issuer_name(signer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(_issued_by(signers_key), critical=False)
    )
    if is_node:
        names = x509.SubjectAlternativeName([x509.DNSName(holder.name)])
        builder = builder.add_extension(names, critical=False)
    return Pair(_key_pem(key), _pem(builder.sign(signers_key, hashes.SHA256())))


def read_certificate(pem: bytes) -> Certificate:
    """Return what the first certificate in ``pem`` says. Raises InvalidValueError."""
    return _said(_certificate(pem))


def read_bundle(pem: bytes) -> list[Certificate]:
    """Return what the certificates in ``pem`` say, one or more. Raises InvalidValueError."""
    return [_said(each) for each in _certificates(pem)]


def key_fits(key: bytes, certificate: bytes) -> bool:
    """Say whether ``key`` is that of ``certificate``. Raises InvalidValueError."""
    return bool(_key(key).public_key() == _certificate(certificate).public_key())


def is_signed_by(certificate: bytes, bundle: bytes) -> bool:
    """Say whether one of the authorities in ``bundle`` has signed. Raises InvalidValueError."""
    found = _certificate(certificate)
    return any(_has_signed(authority, found) for authority in _certificates(bundle))


def split(bundle: bytes) -> list[bytes]:
    """Return the certificates of ``bundle`` one by one. Raises InvalidValueError."""
    return [_pem(each) for each in _certificates(bundle)]


def _said(found: x509.Certificate) -> Certificate:
    return Certificate(
        subject=found.subject.rfc4514_string(),
        holder=_holder(found.subject),
        issuer=found.issuer.rfc4514_string(),
        begins=found.not_valid_before_utc,
        ends=found.not_valid_after_utc,
        serial=found.serial_number,
    )


def _holder(subject: x509.Name) -> Holder | None:
    """Return whom a subject names; None: not exactly one CN and one OU that is a role."""
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    roles = subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    try:
        ((name,), (role,)) = names, roles
        return Holder(str(name.value), Role(str(role.value)))
    except ValueError:
        return None


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, serial: int, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _certificate(pem: bytes) -> x509.Certificate:
    return _certificates(pem)[0]


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InvalidValueError("holds no certificate as PEM") from None


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidValueError("holds no private key as PEM without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidValueError("holds a private key that is on no elliptic curve")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
