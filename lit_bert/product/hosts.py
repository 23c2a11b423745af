"""Which hosts `serve` answers as, as a defence against pages of other sites.

A page elsewhere can let its own name point to 127.0.0.1 (DNS rebinding). The browser then takes the server on
its user's machine for a part of that site and lets the page read the answers. Only the Host header gives such
a request away, as it holds the page's name: so a name has to be known. An address cannot be rebound.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

ANY = "*"
LOOPBACK = "localhost, 127.0.0.0/8 and [::1]"  # always accepted
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[0-9A-Za-z._-]{1,253})(?::([0-9]{1,5}))?")
_SCHEMES = ("http://", "https://")  # of pages that may ask


class Authority(NamedTuple):
    """What a Host header says.

    Attributes:
        host: in lower case without a final dot; an address in its usual form without brackets, and an IPv4
            address inside an IPv6 one as IPv4.
        port: as it came; None where none did.
    """

    host: str
    port: str | None


@functools.lru_cache(maxsize=256)
def parse(value: str) -> Authority | None:
    """The parts of `host[:port]`, as a Host header or the end of an Origin has it; None if it is neither."""
    match = _HOST.fullmatch(value)
    if match is None or int(match[2] or 0) > 65_535:
        return None
    host = match[1].lower().removesuffix(".")
    bare = host.strip("[]")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return Authority(host, match[2]) if host and bare == host else None
    if bare != host and address.version == 4:  # brackets are for IPv6
        return None
    return Authority(str(getattr(address, "ipv4_mapped", None) or address), match[2])


def parse_origin(value: str) -> str | None:
    """Host of an Origin header; None for `null`, schemes other than http and https, and what is no origin."""
    scheme = next((scheme for scheme in _SCHEMES if value.startswith(scheme)), None)
    parsed = parse(value.removeprefix(scheme)) if scheme else None
    return parsed.host if parsed else None


class Hosts:
    """The hosts that a request may be addressed to.

    Args:
        listening: the address or name that the server was told to listen on.
        allowed: what `parse` returns as host, or `*` for any.
    """

    def __init__(self, listening: str, allowed: Iterable[str] = ()) -> None:
        self.allowed = list(dict.fromkeys(allowed))
        self.any = ANY in self.allowed
        listens = parse(f"[{listening}]" if ":" in listening else listening)
        self.names = {"localhost", *self.allowed, *([listens.host] if listens else [])}
        self.loopback = listens is not None and (listens.host == "localhost" or _is_loopback(listens.host))

    def allows(self, host: str, local_address: str | None = None) -> bool:
        """Whether a request to `host`, as `parse` returns it, is answered.

        Args:
            local_address: of this machine, that the connection came to. It is accepted as a host, as no other
                site can have a page there; probes of containers use it.
        """
        if self.any or host in self.names or _is_loopback(host):
            return True
        return local_address is not None and host == _socket_host(local_address)

    def __str__(self) -> str:
        """What is accepted, for people."""
        if self.any:
            return "any"
        named = [host for host in self.allowed if host != "localhost"]
        return f"{LOOPBACK}, the address that a client connects to{''.join(f', {host}' for host in named)}"


@functools.lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.lru_cache(maxsize=256)
def _socket_host(address: str) -> str:
    """An address as `parse` returns it, of one as a socket has it."""
    address = address.partition("%")[0]
    parsed = parse(f"[{address}]" if ":" in address else address)
    return parsed.host if parsed else ""
