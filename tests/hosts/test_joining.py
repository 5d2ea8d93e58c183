"""Two machines with nothing but an installation become one network: four commands to a ping."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from support import json_answers
from support.cables import Switch
from support.hosts import Manager, WholeHost, together

NETWORK = "198.51.100"
POOL = ip_network("100.64.0.0/10")
FOUR_COMMANDS = 30.0
"""Seconds from the first command to the ping, on a machine that does other things, too."""
CUT = 5.0
"""Seconds from `network revoke` until no node talks to the one revoked."""


@contextlib.contextmanager
def machines(layers: list[Path], manager: Manager, *names: str) -> Iterator[list[WholeHost]]:
    """Boot machines that reach each other, with QuicEther installed and nothing else."""
    with together(*(WholeHost(name, manager, layers) for name in names)) as hosts, Switch() as lan:
        for number, host in enumerate(hosts, 1):
            port = lan.plug(host)
            # A default route is what NetworkManager wants below a VPN.
            host.configure_link(port.ifname, [f"{NETWORK}.{number}/24"], f"{NETWORK}.254")
        yield hosts


def ask(host: WholeHost, *words: str) -> Any:
    """Return the JSON answer of a command."""
    answer = host.run(["quicether", *words, "--json"], timeout=60).stdout
    return json_answers.check(words, answer)


def refusal(host: WholeHost, *words: str, code: int = 1) -> str:
    """Return what a command that has to fail says: one sentence, and its status."""
    done = host.run(["quicether", *words], check=False, timeout=60)
    assert done.returncode == code, done
    assert done.stderr.startswith("quicether: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def invite(host: WholeHost, name: str, *words: str) -> str:
    return str(ask(host, "invite", name, *words)["code"])


def join(home: WholeHost, host: WholeHost) -> dict[str, Any]:
    """Let a machine join under its own name and bring its tunnel up."""
    joined: dict[str, Any] = ask(host, "join", invite(home, host.name))
    host.run(joined["next"].split(), timeout=60)
    return joined


def overlay_address(host: WholeHost) -> str:
    status = ask(host, "status")
    return str(status["tunnels"][0]["addresses"][0]).partition("/")[0]


def reaches(host: WholeHost, address: str) -> bool:
    done = host.run(["ping", "-c1", "-W1", address], check=False)
    return done.returncode == 0


def states(host: WholeHost) -> dict[str, str]:
    """Name of each peer → its state."""
    return {peer["name"]: peer["state"] for peer in ask(host, "peers")["peers"]}


@pytest.mark.parametrize("manager", ["networkmanager", "networkd"])
def test_four_commands_to_a_ping(installed: list[Path], manager: Manager) -> None:
    with machines(installed, manager, "home", "laptop") as (home, laptop):
        begun = time.monotonic()
        created = ask(home, "network", "create", "home", "--prefix", "192.168.77.0/24")
        code = home.run(["quicether", "invite", "laptop", "--prefix", "192.168.7.0/24"]).stdout
        answer = laptop.run(["quicether", "join", "-", "--json"], input=code, timeout=60).stdout
        joined = json_answers.check(["join"], answer)
        laptop.run(joined["next"].split(), timeout=60)
        home_address = created["node"]["addresses"][0]
        laptop.wait_until(lambda: reaches(laptop, home_address), 5, "a ping through the tunnel")
        took = time.monotonic() - begun
        print(f"{manager}: four commands and a ping took {took:.1f} s")
        assert took < FOUR_COMMANDS
        assert created["up"]
        assert joined["next"] == {
            "networkmanager": "nmcli connection up quicether",
            "networkd": "systemctl start quicether@home.service",
        }[manager]  # fmt: skip
        assert joined["prefixes"] == ["192.168.7.0/24"]
        assert ip_address(joined["addresses"][0]) in POOL
        # What was invited with a prefix advertises it, without another word.
        route = home.run(["ip", "-j", "route", "get", "192.168.7.1"]).stdout
        assert json.loads(route)[0]["dev"] == "quicether0"
        # Keys are nobody else's: the authority's is root's, and the node's is the service's.
        for host, path, owner in (
            (home, "etc/quicether/networks/home/authority.key", 0),
            (home, "etc/quicether/networks/home/invitations.json", 0),
            (laptop, "var/lib/quicether/home/node.key", laptop.user("quicether")[0]),
        ):
            status = (host.root / path).stat()
            assert (status.st_mode & 0o777, status.st_uid) == (0o600, owner)
        leave(laptop)
        join_over_the_bus(home, laptop)


def join_over_the_bus(home: WholeHost, laptop: WholeHost) -> None:
    """Run the manual's example, which does what the command does, and find the code in no log."""
    code = invite(home, "desk", "--prefix", "192.168.8.0/24")
    page = laptop.run(["cat", "/usr/share/man/man5/org.quicether1.5"]).stdout.replace("\\-", "-")
    (example,) = re.findall(r"^busctl call .* Join s CODE$", page, re.M)
    command = example.replace("CODE", code).replace("busctl", "busctl --json=short").split()
    refused = laptop.run(command, user="nobody", check=False)
    assert "you may not change who is trusted" in refused.stderr
    (answer,) = json.loads(laptop.run(command, timeout=60).stdout)["data"]
    joined = {key: value["data"] for key, value in answer.items()}
    assert (joined["name"], joined["prefixes"]) == ("desk", ["192.168.8.0/24"])
    assert joined["inviter"] == "home"
    laptop.run(joined["next"].split(), timeout=60)
    address = overlay_address(home)
    laptop.wait_until(lambda: reaches(laptop, address), 5, "a ping through the tunnel")
    key = (laptop.root / "var/lib/quicether/home/node.key").stat()
    assert (key.st_mode & 0o777, key.st_uid) == (0o600, laptop.user("quicether")[0])
    for path in ("etc/quicether/home.toml", "etc/quicether/networks/home"):
        assert (laptop.root / path).stat().st_uid == 0
    assert (laptop.root / "run/quicether-join").stat().st_mode & 0o777 == 0o600
    said = laptop.run(["journalctl", "--no-pager"]).stdout
    assert "this machine has joined network home as desk" in said
    assert code not in said
    again = laptop.run([*command[:-1], "AAAAA-BBBBB"], check=False)
    assert "mistyped or cut off" in again.stderr


def leave(laptop: WholeHost) -> None:
    """Leave, and find nothing left of the network but the key, and at last not even that."""
    ask(laptop, "leave")
    assert "quicether0" not in laptop.run(["ip", "-brief", "link"]).stdout
    assert not (laptop.root / "etc/quicether/home.toml").exists()
    assert not (laptop.root / "etc/quicether/networks/home").exists()
    assert not list((laptop.root / "etc/systemd/system").rglob("quicether@*"))
    if laptop.manager == "networkmanager":
        assert "quicether" not in laptop.run(["nmcli", "-g", "NAME", "connection", "show"]).stdout
    assert (laptop.root / "var/lib/quicether/home/node.key").exists()
    ask(laptop, "leave", "home", "--purge")
    assert not (laptop.root / "var/lib/quicether/home").exists()
    assert "not in any network" in refusal(laptop, "leave")


def test_codes_that_do_not_count_get_a_sentence(installed: list[Path]) -> None:
    with machines(installed, "none", "home", "laptop", "thief") as (home, laptop, thief):
        said = refusal(laptop, "join", "AAAAA-BBBBB", code=2)
        assert "mistyped or cut off" in said
        ask(home, "network", "create", "home", "--no-up")
        assert "is not up on this machine" in refusal(home, "invite", "laptop")
        home.run(["systemctl", "start", "quicether@home.service"], timeout=60)
        code = invite(home, "laptop")
        joined = ask(laptop, "join", code)
        assert joined["name"] == "laptop"
        assert "another machine has joined" in refusal(thief, "join", code)
        withdrawn = invite(home, "phone")
        invite(home, "phone")  # a new code for the name makes the old one void
        assert "the inviter refuses this code" in refusal(thief, "join", withdrawn)
        unused = invite(home, "tablet")
        book = home.root / "etc/quicether/networks/home/invitations.json"
        book.write_text(
            re.sub(r'"expires": "[^"]*"', f'"expires": "{_an_hour_ago()}"', book.read_text())
        )
        assert "the invitation has expired; ask for a new one" in refusal(thief, "join", unused)
        # Whoever gave up a code got nothing: no certificate, no settings.
        assert not (thief.root / "etc/quicether/networks/home").exists()
        assert not (thief.root / "etc/quicether/home.toml").exists()


def _an_hour_ago() -> str:
    return (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def test_a_revoked_node_is_cut_off_everywhere_and_stays_out(installed: list[Path]) -> None:
    with machines(installed, "none", "home", "desk", "thief") as (home, desk, thief):
        ask(home, "network", "create", "home")
        join(home, desk)
        join(home, thief)
        # The two are also connected with each other, not only with the authority's node.
        settings = thief.root / "etc/quicether/home.toml"
        both = f'peers = ["home@{NETWORK}.1:9000", "desk@{NETWORK}.2:9000"]'
        text = settings.read_text().splitlines()
        settings.write_text("\n".join(both if "peers =" in line else line for line in text))
        thief.run(["quicether", "reload", "home"])
        address = overlay_address(thief)
        desk.wait_until(lambda: states(desk).get("thief") == "connected", 10, "thief's connection")
        assert reaches(desk, address)
        begun = time.monotonic()
        answer = ask(home, "network", "revoke", "thief")
        assert answer["told"]
        for host in (home, desk):
            left = CUT - (time.monotonic() - begun)
            host.wait_until(lambda host=host: "thief" not in states(host), left, "thief cut off")
        print(f"cut off everywhere after {time.monotonic() - begun:.2f} s")
        assert not reaches(desk, address)
        assert states(desk)["home"] == "connected"
        # It survives the end of every service, with the authority's node away.
        home.run(["systemctl", "stop", "quicether.service"])
        desk.run(["systemctl", "restart", "quicether.service"], timeout=60)
        desk.wait_until(lambda: ask(desk, "status")["tunnels"], 10, "desk's tunnel")
        thief.wait_until(lambda: states(thief).get("desk") == "refused", 10, "desk's refusal")
        assert "thief" not in states(desk)
        # Its key is worth nothing any more, with whatever invitation.
        home.run(["systemctl", "start", "quicether@home.service"], timeout=60)
        assert "could not certify" in refusal(thief, "join", invite(home, "newname"))


def test_a_certificate_that_ends_soon_is_renewed_by_itself(installed: list[Path]) -> None:
    with machines(installed, "none", "home", "laptop") as (home, laptop):
        ask(home, "network", "create", "home")
        joined = ask(laptop, "join", invite(home, "laptop", "--valid", "2m"))
        renewed = laptop.root / "var/lib/quicether/home/node.crt"
        assert not renewed.exists()
        laptop.run(joined["next"].split(), timeout=60)
        laptop.wait_until(renewed.exists, 15, "a renewal")
        assert renewed.stat().st_uid == laptop.user("quicether")[0]
        shown = ask(laptop, "network", "show", "home")
        assert shown["not_after"] > joined["not_after"]
        assert states(laptop) == {"home": "connected"}
        # The authority's own is good for a year yet.
        assert "can be renewed from" in refusal(home, "renew")


def test_root_s_programs_give_the_service_s_user_nothing_else(installed: list[Path]) -> None:
    with machines(installed, "none", "home") as (home,):
        ask(home, "network", "create", "home")
        for program in ("quicether-registrar", "quicether-join"):
            script = (
                "import socket, sys\n"
                "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
                f"s.connect('/run/{program}')\n"
                "s.send(b'rubbish'); print(s.recv(99999))\n"
            )
            as_service = home.run(["python3", "-c", script], user="quicether").stdout
            assert "protocol" in as_service
            other = home.run(["python3", "-c", script], user="nobody", check=False)
            assert "PermissionError" in other.stderr
        for secret in ("authority.key", "issued.json"):
            path = f"/etc/quicether/networks/home/{secret}"
            read = home.run(["cat", path], user="quicether", check=False)
            assert "Permission denied" in read.stderr
        exposure = home.run(["systemd-analyze", "security", "quicether-registrar.service"]).stdout
        assert float(exposure.split("quicether-registrar.service:")[1].split()[0]) <= 2.0
        verified = home.run(
            ["systemd-analyze", "verify", "quicether-registrar.service", "quicether@home.service"],
            check=False,
        )
        assert "quicether" not in verified.stderr
