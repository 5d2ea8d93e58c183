"""Takes out of a text what says who and where somebody is. Pure.

Private and overlay addresses stay, because a diagnosis needs them; public addresses, node ids,
hardware addresses and given names become tokens, the same token for the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

_IPV4: Final = r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.]*\d)"
_IPV6: Final = r"(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"
_MAC: Final = r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])"
# Whole ids, keys and network ids; ids as short as people see them, but no number of ten digits.
_HEX: Final = r"\b(?:[0-9a-f]{64}|[0-9a-f]{40}|(?=[0-9]{0,9}[a-f])[0-9a-f]{10})\b"
_SECRET: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)


class Redactor:
    """Replaces by tokens. names: words to hide wherever they stand alone (nodes, hosts, users)."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._tokens: dict[tuple[str, str], str] = {}
        words = sorted({re.escape(name) for name in names if len(name) > 1}, key=len, reverse=True)
        pattern = "|".join(
            [f"(?P<mac>{_MAC})", f"(?P<v6>{_IPV6})", f"(?P<v4>{_IPV4})", f"(?P<id>{_HEX})"]
            + ([rf"(?<![\w-])(?P<name>{'|'.join(words)})(?![\w-])"] if words else [])
        )
        self._pattern = re.compile(pattern)

    def redact(self, text: str) -> str:
        """Return text without what it should not tell."""
        return self._pattern.sub(self._replace, _SECRET.sub("[private key]", text))

    def _replace(self, match: re.Match[str]) -> str:
        kind, found = str(match.lastgroup), match[0]
        if kind in ("v4", "v6"):
            try:
                if not ip_address(found).is_global:
                    return found
            except ValueError:
                return found
            kind = "address"
        if kind == "id":
            found = found[:10]
        return self._tokens.setdefault(
            (kind, found), f"{kind}-{sum(known == kind for known, _ in self._tokens) + 1}"
        )
