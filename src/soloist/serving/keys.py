"""Who may ask: the key, and the hosts at which a server needs none. Pure but for the names of hosts."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket

from soloist.errors import ConfigError

KEY_VARIABLE = "SOLOIST_API_KEY"
_SCHEME = b"bearer "
_LOOPBACK_NAMES = frozenset({"localhost"})


class Key:
    """A key, which is compared in a time that does not depend on it. Nothing shows it."""

    def __init__(self, text: str) -> None:
        self._digest = hashlib.sha256(text.encode()).digest()

    def is_given(self, authorization: bytes) -> bool:
        """Whether a header says `Bearer` and this key."""
        given = authorization[len(_SCHEME) :].strip() if authorization[: len(_SCHEME)].lower() == _SCHEME else b""
        return hmac.compare_digest(hashlib.sha256(given).digest(), self._digest)


def key_for(host: str, text: str | None) -> Key | None:
    """The key of a server at this host; None where there is none, and it needs none.

    Raises:
        ConfigError: there is no key, and the host is not a loopback address; or the key cannot be sent in a header.
    """
    if text is None:
        if is_loopback(host):
            return None
        raise ConfigError(
            f"{host} can be reached from other machines, and there is no key: set {KEY_VARIABLE} to a secret of your "
            "own, or leave --host out"
        )
    return key_of(text)


def key_of(text: str) -> Key:
    """The key of a text.

    Raises:
        ConfigError: it cannot be sent in a header.
    """
    if not text.isascii() or not text.isprintable() or text != text.strip() or not text:
        raise ConfigError(
            f"the key in {KEY_VARIABLE} or api_key is empty, or has a character that a header of HTTP cannot have: "
            "give printable ASCII without blanks at its ends"
        )
    return Key(text)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found)


def names_loopback(host_header: str) -> bool:
    """Whether the header Host names this machine itself.

    A page in a browser that has its name changed to 127.0.0.1 (DNS rebinding) still sends its own name.
    """
    name = host_header.strip()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name.lower().rstrip(".") in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
