"""Which addresses are nobody's business: everything that is not a public host of the internet.

The lists are IANA's special-purpose registries (RFC 6890), and the few public addresses at which a cloud keeps its
machines' credentials.  Python's own `is_private` has meant different things in different versions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# From the narrow to the wide: the first that holds an address says what it is.
_IPV4: Final = tuple(
    (ipaddress.IPv4Network(network), what)
    for network, what in (
        ("169.254.169.254/32", "a cloud's metadata address"),
        ("169.254.170.2/32", "a cloud's metadata address"),
        ("100.100.100.200/32", "a cloud's metadata address"),
        ("192.0.0.192/32", "a cloud's metadata address"),
        ("168.63.129.16/32", "a cloud's metadata address"),
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "a carrier's private address"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a reserved address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for measurements"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
    )
)
_IPV6: Final = tuple(
    (ipaddress.IPv6Network(network), what)
    for network, what in (
        ("fd00:ec2::254/128", "a cloud's metadata address"),
        ("fd20:ce::254/128", "a cloud's metadata address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
        ("2001:db8::/32", "an address for documentation"),
        ("3fff::/20", "an address for documentation"),
        # Teredo is in here; what it wraps is looked at before.
        ("2001::/23", "a reserved address"),
    )
)
_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")
# IPv6 addresses that stand for an IPv4 address in their last four bytes.
_WRAPPING: Final = tuple(
    ipaddress.IPv6Network(network) for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_6TO4: Final = ipaddress.IPv6Network("2002::/16")
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
# The interface identifier of an ISATAP address (RFC 5214), without its universal bit.
_ISATAP: Final = 0x0000_5EFE


def reason_against(address: Address) -> str | None:
    """What an address is that a link does not lead to by itself; None for a public one."""
    wrapped = wrapped_in(address)
    for inner in wrapped:
        if (reason := _reason(inner)) is not None:
            return f"{reason} inside another"
    return None if wrapped and _is_translated(address) else _reason(address)


def admissible(address: Address, named: Iterable[Network], permitted: Iterable[Network]) -> bool:
    """Whether an address that is not public lies in a range that the link names, and in one that the node permits.

    An address inside another counts as what it is inside.
    """
    forms = wrapped_in(address) or (address,)
    return all(
        any(form in network for network in named) and any(form in network for network in permitted) for form in forms
    )


def wrapped_in(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """The IPv4 addresses to which an IPv6 address leads or through which it goes."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    number = int(address)
    # Both are addresses of their own.
    if number <= 1:
        return ()
    if any(address in network for network in _WRAPPING):
        return (_v4(number),)
    if address in _6TO4:
        return (_v4(number >> 80),)
    if address in _TEREDO:
        return (_v4(number >> 64), _v4(~number))
    if (number >> 32) & 0xFDFF_FFFF == _ISATAP:
        return (_v4(number),)
    return ()


def _v4(number: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(number & 0xFFFF_FFFF)


def _is_translated(address: Address) -> bool:
    """Whether packets to it arrive at the IPv4 address it wraps, so that nothing else about it matters."""
    return any(address in network for network in _WRAPPING[1:])


def _reason(address: Address) -> str | None:
    table: tuple[tuple[Network, str], ...] = _IPV4 if isinstance(address, ipaddress.IPv4Address) else _IPV6
    for network, what in table:
        if address in network:
            return what
    return "a reserved address" if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL else None
