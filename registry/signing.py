"""Who may write what the fleet serves: an Ed25519 signature under every version.

Only the control plane and the jobs hold the private key; a gateway holds the public one and serves nothing that it does
not verify. What is signed: domain, number and content hash (so a text cannot move to another domain or number), and,
for a domain with a locked block, that block.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from registry.errors import Refused, SettingsError
from registry.records import Domain, ServedVersion


def content_hash(text: str) -> str:
    """``sha256:<hex>`` of a text."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Signer:
    """Holds the private key. ``public`` is the 32-byte public key."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the public key's hash, to tell keys apart."""
        return fingerprint(self.public)

    @classmethod
    def create(cls, seed: bytes | None = None) -> Signer:
        """A new key; from 32 given bytes, always the same."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed) if seed else Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Signer:
        """The key of this file. Raises SettingsError."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise SettingsError(f"The signing key {path} cannot be read: {error.strerror}.") from error
        except (ValueError, TypeError) as error:
            raise SettingsError(f"The signing key {path} cannot be read: it is no private key (PEM).") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingsError(f"The signing key {path} is not an Ed25519 key.")
        return cls(key)

    @classmethod
    def load_or_create(cls, path: Path) -> Signer:
        """The key of this file; made (mode 0600, public key beside it as ``.pub``) when the file is not there yet.

        Two processes may start at once: the first to link its file wins, the other reads it. Raises SettingsError.
        """
        if not path.exists():
            signer = cls.create()
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(signer.private_pem())
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(draft, path)
                draft.unlink()
            except OSError as error:
                raise SettingsError(f"The signing key {path} cannot be written: {error.strerror}.") from error
        signer = cls.load(path)
        public = path.with_suffix(".pub")
        text = base64.b64encode(signer.public).decode() + "\n"
        with contextlib.suppress(OSError):
            if not public.exists() or public.read_text() != text:
                public.write_text(text)
        return signer

    def private_pem(self) -> bytes:
        """PKCS #8 PEM of the private key."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, domain: str, number: int, digest: str) -> str:
        """Base64 signature of one version."""
        return base64.b64encode(self._private.sign(_version_bytes(domain, number, digest))).decode()

    def sign_locked(self, domain: Domain) -> str:
        """Base64 signature of a domain's locked block."""
        return base64.b64encode(self._private.sign(_locked_bytes(domain))).decode()


def fingerprint(public: bytes) -> str:
    """Sixteen hex digits of a public key's hash, to tell keys apart."""
    return hashlib.sha256(public).hexdigest()[:16]


def load_public(text: str) -> bytes:
    """The 32-byte public key from base64 text or from a file that holds it. Raises SettingsError."""
    value = text.strip()
    if len(value) != 44:
        try:
            value = Path(value).expanduser().read_text().strip()
        except OSError as error:
            raise SettingsError(f"verify_key {text!r} is neither a public key in base64 nor a file of one.") from error
    try:
        raw = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise SettingsError(f"verify_key {text!r} is not base64.") from error
    if len(raw) != 32:
        raise SettingsError(f"verify_key {text!r} is not a public key: it holds {len(raw)} bytes, not 32.")
    return raw


class Verifier:
    """Checks versions against a public key, each signature once; remembers at most ``keep`` good ones."""

    def __init__(self, public: bytes, keep: int = 100_000) -> None:
        try:
            self._public = Ed25519PublicKey.from_public_bytes(public)
        except ValueError as error:
            raise Refused(f"This is no Ed25519 public key: {error}.") from error
        self._good: dict[tuple[str, int, str, str], None] = {}
        self._keep = keep

    def version(self, served: ServedVersion, domain: str) -> bool:
        """True when text, hash, number and domain are what was signed."""
        if content_hash(served.system_prompt) != served.hash:
            return False
        return self._check(
            (domain, served.number, served.hash, served.signature),
            served.signature,
            _version_bytes(domain, served.number, served.hash),
        )

    def locked(self, domain: Domain) -> bool:
        """True when the domain has no locked block, or one that was signed."""
        if not domain.locked:
            return True
        return self._check(
            (domain.name, -1, domain.locked, domain.locked_signature), domain.locked_signature, _locked_bytes(domain)
        )

    def _check(self, known: tuple[str, int, str, str], signature: str, message: bytes) -> bool:
        if known in self._good:
            return True
        try:
            self._public.verify(base64.b64decode(signature, validate=True), message)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        if len(self._good) >= self._keep:
            self._good.clear()  # rare, and safe when several threads check at once
        self._good[known] = None
        return True


def verify(public: bytes, served: ServedVersion, domain: str) -> bool:
    """One version against one public key (32 bytes)."""
    return Verifier(public).version(served, domain)


def _version_bytes(domain: str, number: int, digest: str) -> bytes:
    return f"metaspo version 1\n{domain}\n{number}\n{digest}".encode()


def _locked_bytes(domain: Domain) -> bytes:
    return f"metaspo locked 1\n{domain.name}\n{content_hash(domain.locked)}".encode()
