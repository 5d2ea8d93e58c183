"""What every command prints under `--json`: the source of the JSON schema, read by nothing else.

What the service says is in `report`. `logs` is not here: its lines are journalctl's own.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from quicether.cli import findings, report
from quicether.config.options import OPTIONS

_SOMETIMES: Final[Any] = Field(default=None)
"""Of a key that is missing where it has nothing to say."""


class Answer(BaseModel):
    """An object with these keys and no other."""

    model_config = ConfigDict(extra="forbid")


class TunnelChange(Answer):
    """`start`, `stop`, `up`, `down`, `reload`: one object a line, one line a tunnel."""

    tunnel: str
    state: Literal["up", "down", "reloaded"]


class Version(Answer):
    """`version`."""

    version: str


class Node(Answer):
    """What a certificate says. not_after: RFC 3339, UTC."""

    name: str
    node_id: str
    addresses: list[str]
    prefixes: list[str]
    groups: list[str]
    not_after: str | None


class Created(Answer):
    """`network create`. next: the command to go on with."""

    network: str
    network_id: str
    created: bool
    node: Node = _SOMETIMES
    settings_file: str = _SOMETIMES
    settings_current: bool = _SOMETIMES
    up: bool = _SOMETIMES
    next: str = _SOMETIMES


class Signed(Node):
    """`network sign`. bundle: PEM, where it went into no file."""

    certificate_file: str = _SOMETIMES
    bundle_file: str = _SOMETIMES
    bundle: str = _SOMETIMES


class Installed(Node):
    """`network install`."""

    network_id: str


class Revoked(Answer):
    """`network revoke`. told: the tunnel is up here, and others learn of it at once."""

    node_id: str
    name: str
    list_number: int
    revoked: int
    told: bool


class Part(Answer):
    """This machine's part in a network; problem: why it has none, or none that counts."""

    network: str
    network_id: str = _SOMETIMES
    authority: bool = _SOMETIMES
    problem: str = _SOMETIMES
    name: str = _SOMETIMES
    node_id: str = _SOMETIMES
    addresses: list[str] = _SOMETIMES
    prefixes: list[str] = _SOMETIMES
    groups: list[str] = _SOMETIMES
    not_after: str | None = _SOMETIMES


class Networks(Answer):
    """`network list`."""

    networks: list[Part]


class CertifiedNode(Node):
    """A node in the authority's book."""

    revoked: bool


class Shown(Part):
    """`network show`. nodes: where this user may read the authority's book."""

    nodes: list[CertifiedNode] = _SOMETIMES


class Key(Answer):
    """`keygen`."""

    network: str
    node_id: str
    public_key: str
    key_file: str


class Invitation(Answer):
    """`invite`."""

    network: str
    name: str
    code: str
    expires: str
    endpoints: list[str]
    prefixes: list[str]
    groups: list[str]
    tunnel_up: bool


class Joined(Node):
    """`join`. next: the command that brings the tunnel up."""

    network: str
    inviter: str
    peer: str
    settings_file: str
    settings_current: bool
    next: str


class Renewed(Answer):
    """`renew`."""

    network: str
    not_after: str


class Left(Answer):
    """`leave`."""

    network: str
    removed: list[str]
    key_kept: bool


class GoodPolicy(Answer):
    """`policy check` of a file that is right."""

    file: str
    ok: Literal[True]
    rules: int
    groups: int


class PolicyProblem(Answer):
    """One mistake. line: counted from 1."""

    line: int | None
    rule: str | None
    sentence: str


class BadPolicy(Answer):
    """`policy check` of a file that is wrong."""

    file: str
    ok: Literal[False]
    problems: list[PolicyProblem]


class PolicyVerdict(Answer):
    """`policy test`."""

    allowed: bool
    rule: str
    sentence: str


class ValidFile(Answer):
    """`config validate`."""

    file: str
    valid: Literal[True]


class EditedFile(Answer):
    """`config edit`."""

    file: str
    changed: bool


class Bundle(Answer):
    """`diag`."""

    file: str
    content: list[str]


def _settings() -> type[BaseModel]:
    """Return what `config show` prints: the sections of a configuration file."""
    value = str | int | bool | list[str]
    sections: dict[str, dict[str, Any]] = {}
    for option in OPTIONS.values():
        sections.setdefault(option.section, {})[option.field] = (value, _SOMETIMES)
    kinds: dict[str, Any] = {
        name: (create_model(f"Section_{name}", __base__=Answer, **fields), _SOMETIMES)
        for name, fields in sections.items()
    }
    return create_model("StoredSettings", __base__=Answer, **kinds)


ANSWERS: Final[dict[str, Any]] = {
    **dict.fromkeys(("start", "stop", "up", "down", "reload"), TunnelChange),
    "status": report.StatusReport,
    "peers": report.PeersReport,
    "routes": report.RoutesReport,
    "lookup": report.LookupReport,
    "ping": report.PingReport,
    "version": Version,
    "network create": Created,
    "network sign": Signed,
    "network install": Installed,
    "network revoke": Revoked,
    "network list": Networks,
    "network show": Shown,
    "invite": Invitation,
    "join": Joined,
    "renew": Renewed,
    "leave": Left,
    "keygen": Key,
    "policy check": GoodPolicy | BadPolicy,
    "policy test": PolicyVerdict,
    "config show": _settings(),
    "config edit": EditedFile,
    "config validate": ValidFile,
    "doctor": list[findings.Finding],
    "diag": Bundle,
}
"""Command → what it prints."""
