"""Takes out of a text what says who and where somebody is. Pure.

A diagnosis needs to see what is the same and what lies within what, so the same thing gets the
same pseudonym all over a bundle, and a private IPv6 address stays one: its network, its subnet and
its host are each replaced. Private IPv4 addresses stay. A pseudonym is a keyed hash, so that
nobody can try which node it stands for, nor tell whether two bundles speak of the same one.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

_IPV4: Final = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)"
_IPV6: Final = (
    r"(?<![\w.])(?<![\dA-Fa-f:]:)(?:[0-9A-Fa-f]{0,4}:){2,7}"
    r"(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:])"
)
# InfiniBand's have 20 bytes.
_MAC: Final = (
    r"(?<![\w:-])(?:(?:[0-9A-Fa-f]{2}:){5,19}|(?:[0-9A-Fa-f]{2}-){5})[0-9A-Fa-f]{2}(?![\w:-])"
)
_MAC_IN_NAME: Final = r"(?<=\benx|\bwlx)[0-9a-f]{12}\b"
# Ids, keys and network ids, whole or as short as people see them, but no number of ten digits.
_HEX: Final = (
    r"\b(?=[0-9]*[A-Fa-f])[0-9A-Fa-f]{10,64}\b"
    r"|(?<=\()\d{10}(?=…?\))|(?<=\bnode )\d{10}(?!\d)"
)
_KEY: Final = r"(?<![\w+/=-])[\w+/-]{43}=(?![\w+/=-])"
_CODE: Final = r"\b(?:[A-Za-z2-7]{5}-){7,}[A-Za-z2-7]{1,5}\b"
_MAIL: Final = r"(?<![\w.%+-])[\w.%-]*[.%+][\w.%+-]*(?=@[A-Za-z0-9])"
_HOST: Final = (
    r"(?<![\w.-])(?:[A-Za-z0-9_-]+\.)+(?:[Xx][Nn]--[A-Za-z0-9-]+|[A-Za-z]{2,})(?![\w-]|\.\w)"
)
_SOLICITED: Final = IPv6Network("ff02::1:ff00:0/104")
_PEM: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)

_FILE: Final = re.compile(
    "automount|conf|crl|crt|d|device|json|key|link|log|mount|netdev|network|path|py|scope|service|"
    "slice|so|socket|swap|target|timer|toml|txt"
)
"""Last parts of names with dots that are no DNS names."""
_DOMAINS_TOO: Final = frozenset({"link", "network", "py", "so"})
"""Of these, which are top-level domains as well."""
_DOTTED: Final = re.compile(
    r"kernel\.\w+|net\.(?:core|ipv[46]|netfilter|unix)\..*|org\.(?:freedesktop|quicether1)\b.*"
    r"|(?:aioquic|asyncio)\..*|quicether\.(?:bus|cli|config|daemon|dataplane|dht|host|identity"
    r"|monitoring|names|overlay|policy|registry|routing|transport)\b.*"
)
"""Names of sysctl, D-Bus and Python."""
_PORT: Final = re.compile(r":\d")
_DOMAIN: Final = "quicether"
"""Domain of the overlay's own names."""

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_NAMED: Final = (
    # How our own sentences and settings name nodes, tunnels and networks.
    rf"\bpeer ({_NAME})(?=: | \()",
    rf"\bnode '?({_NAME})(?='|: | \(| asks| covers| is (?:a|not|renewed|revoked)\b| offers)",
    rf"\btunnel ({_NAME})(?=: | goes| is)",
    rf"\b(?:for|of) network ({_NAME})",
    rf"\binvitation for ({_NAME})",
    rf"\bcertificate of ({_NAME})(?= expired| for| is)",
    rf"({_NAME}) \((?:node )?[0-9a-f]{{10,40}}\b",
    rf"\bis up as ({_NAME})",
    rf"({_NAME})@",
    rf"\b(?:name|default_gateway)\s*=\s*[\"']({_NAME})",
    rf"({_NAME})\.toml\b",
    rf"\bpeer ({_NAME}):\d",
    rf"@({_NAME}):\d",
    rf"_name=({_NAME})",
    rf" of ({_NAME}) is gone",
    rf"\bcompared with ({_NAME})",
    rf"\bwhile ({_NAME}) was asked",
    rf"/home/({_NAME})",
    # A profile's name may have blanks.
    r"\]: tunnel (\S[^\n]{0,62}\S)(?=: | goes down| could not| is (?:up|down)\b)",
)
_WRITTEN: Final = re.compile(
    r"\b(comment \"|log prefix \")([^\"\n]+)(?=\")|^(\s+alias )(\S[^\n]*)$", re.M
)
"""What somebody wrote into firewall rules and beside devices, for himself."""
_NODE_LISTS: Final = re.compile(
    r"\b(?:forward_nodes|static_routes)\s*=\s*([^\n]*(?:\n[^\n=]*$)*)", re.M
)
_QUOTED: Final = re.compile(rf"[\"'](?:[^\"'=]*=)?({_NAME})[\"']")
_OURS: Final = frozenset({"config", "localhost", "policy", "quicether", "root"})
_WORD: Final = re.compile("a|again|and|for|has|is|it|may|of|or|that|the|this|to|was|which")
"""What stands there in a sentence where no name does."""


def names_in(text: str) -> set[str]:
    """Return what a text itself tells to be the name of a node, a tunnel or a network."""
    found = {name for pattern in _NAMED for name in re.findall(pattern, text)}
    for listed in _NODE_LISTS.findall(text):
        found |= set(_QUOTED.findall(listed))
    return {name for name in found if not _WORD.fullmatch(name)}


class Redactor:
    """Replaces by pseudonyms.

    salt: random bytes, of this bundle alone. names: words to hide wherever they stand alone
    (nodes, networks, hosts, users), in whatever case. ids: of nodes, in hex.
    """

    def __init__(self, salt: bytes, names: Iterable[str] = (), ids: Iterable[str] = ()) -> None:
        self._salt = salt
        hidden = {name.lower() for name in names} - _OURS
        # A word of one letter, or a number, would take the sense out of everything else: it is
        # hidden where nothing but a name stands.
        short = {name for name in hidden if name and (len(name) == 1 or name.isdigit())}
        hidden = {name for name in hidden if name} - short
        self._short = frozenset(short)
        quoted = rf"[\"'](?:[^\"'=\n]*=)?({'|'.join(map(re.escape, sorted(short)))})[\"']"
        self._places = [re.compile(each, re.I) for each in (quoted, *_NAMED)] if short else []
        words = "|".join(re.escape(name) for name in sorted(hidden, key=len, reverse=True))
        kinds = {"key": _KEY, "code": _CODE, "mail": _MAIL, "mac": _MAC, "v6": _IPV6, "v4": _IPV4}
        known = "".join(rf"|\b{each[:10]}\w*" for each in sorted(set(ids)))
        kinds |= {"hw": _MAC_IN_NAME, "host": _HOST, "id": _HEX + known}
        if words:
            kinds["name"] = rf"(?<![^\W_])(?i:{words})(?![^\W_])"
        self._words = re.compile(kinds["name"]) if words else None
        self._pattern = re.compile("|".join(f"(?P<{kind}>{one})" for kind, one in kinds.items()))

    def redact(self, text: str) -> str:
        """Return text without what it should not tell."""
        text = _PEM.sub(lambda block: f"[{block[1].lower()}]", text)
        text = _WRITTEN.sub(self._written, text)
        for place in self._places:
            text = place.sub(self._named, text)
        return self._pattern.sub(self._replace, text)

    def _written(self, match: re.Match[str]) -> str:
        before, words = match[1] or match[3], match[2] or match[4]
        return before + self._token("text", words)

    def _named(self, match: re.Match[str]) -> str:
        if match[1].lower() not in self._short:
            return match[0]
        start, end = (at - match.start() for at in match.span(1))
        return match[0][:start] + self._token("name", match[1]) + match[0][end:]

    def _replace(self, match: re.Match[str]) -> str:
        kind, found = str(match.lastgroup), match[0]
        if kind in ("v4", "v6"):
            return self._address(found)
        if kind == "host":
            return self._host(found, addressed=_is_addressed(match))
        if kind == "hw":
            return self._digest("mac", found)[:6].hex()
        if kind == "mac" and not found.lower().strip("0f:"):
            return found  # of no device, or of all
        if kind == "id":
            found = found[:10]  # as short as people see it, it is the same node
        return self._token(kind, found)

    def _host(self, found: str, *, addressed: bool) -> str:
        """Return a name with dots without what it tells; addressed: as where a machine is."""
        *_, last = parts = found.lower().split(".")
        is_file = _FILE.fullmatch(last) and not (addressed and last in _DOMAINS_TOO)
        if is_file or _DOTTED.fullmatch(found.lower()):
            # Its parts may still be names, as in NETWORK.toml.
            hide = self._words
            return found if hide is None else hide.sub(lambda it: self._token("name", it[0]), found)
        if last == _DOMAIN:
            return ".".join([*(self._token("name", part) for part in parts[:-1]), last])
        return self._token("host", found)

    def _address(self, found: str) -> str:
        try:
            address = ip_address(found)
        except ValueError:
            return found
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped is not None:
                return f"::ffff:{self._address(str(address.ipv4_mapped))}"
            if address in IPv6Network("fc00::/7") or address in IPv6Network("fe80::/10"):
                return self._private(address)
        # A solicited-node group holds the end of an address (RFC 4291 section 2.7.1).
        group = address.is_multicast and address not in _SOLICITED
        return self._token("address", str(address)) if address.is_global and not group else found

    def _private(self, address: IPv6Address) -> str:
        """Return an address in whose place its network, subnet and host are as recognisable."""
        packed = address.packed
        network, subnet, host = packed[:6], packed[6:8], packed[8:]
        if packed[0] != 0xFE and any(network[1:]):
            network = network[:1] + self._digest("network", network.hex())[:5]
        if any(subnet):
            subnet = self._digest("subnet", packed[:8].hex())[:2]
        if any(host[:6]):  # else a person chose it, as in ::1
            host = self._digest("host", packed.hex())[:8]
        return str(IPv6Address(network + subnet + host))

    def _token(self, kind: str, found: str) -> str:
        return f"{kind}-{self._digest(kind, found.lower()).hex()[:8]}"

    def _digest(self, kind: str, found: str) -> bytes:
        return hmac.digest(self._salt, f"{kind} {found}".encode(), "sha256")


def _is_addressed(match: re.Match[str]) -> bool:
    """Tell whether what was found is where a machine is: behind an @, or with a port."""
    start, end = match.span()
    return (
        match.string[max(start - 1, 0) : start] == "@" or _PORT.match(match.string, end) is not None
    )
