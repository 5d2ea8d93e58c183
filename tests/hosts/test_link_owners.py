"""NetworkManager, systemd-networkd and netlink as owners of the link, side by side."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from support.commands import CommandError
from support.owners import NETWORK, SERVICE, UNIT, Machine, machines
from support.route_watch import RouteWatch
from support.stream import Stream

pytestmark = pytest.mark.alone

OWNERS = {"desk": "networkd", "shed": "netlink", "lap": "networkmanager"}


@pytest.fixture(scope="module")
def booted(installed: list[Path]) -> Iterator[list[Machine]]:
    with machines(installed) as found:
        yield found


@pytest.fixture
def trio(booted: list[Machine]) -> list[Machine]:
    """Three machines without a tunnel."""
    for each in booted:
        each.configure(each.prefix)
        each.down()
        each.host.wait_until(each.is_clean, 10, "every trace to go")
    return booted


@pytest.fixture
def mixed(booted: list[Machine]) -> list[Machine]:
    """The same with all tunnels up, each with the owner of its machine."""
    for each in booted:
        each.configure(each.prefix)
        each.up()
    for here, there in itertools.permutations(booted, 2):
        reached = partial(here.reaches, there.inside)
        here.host.wait_until(reached, 15, f"{there.inside} on {there.name} to answer")
    return booted


def by_name(trio: list[Machine], name: str) -> Machine:
    return next(each for each in trio if each.name == name)


def service_pid(machine: Machine) -> str:
    show = ["systemctl", "show", "--property=MainPID", "--value", SERVICE]
    return machine.host.run(show).stdout.strip()


def test_auto_finds_who_manages_the_machine_and_says_why(mixed: list[Machine]) -> None:
    assert {each.name: each.status()["link"] for each in mixed} == OWNERS
    reasons = {each.name: each.status()["link_reason"] for each in mixed}
    assert reasons["desk"] == "systemd-networkd runs on this machine"
    assert reasons["shed"] == ("neither NetworkManager nor systemd-networkd runs on this machine")
    for each in mixed:
        journal = each.host.run(["journalctl", "-u", SERVICE, "-o", "cat", "--no-pager"]).stdout
        assert f"owned by {OWNERS[each.name]}: {reasons[each.name]}" in journal


def test_a_prefix_comes_and_goes_everywhere_and_nothing_else_flaps(mixed: list[Machine]) -> None:
    for changing in mixed[:2]:
        others = [each for each in mixed if each is not changing]
        added = f"10.{changing.number + 100}.0.0/16"
        with ExitStack() as stack:
            watches = [stack.enter_context(RouteWatch(each.host.netns)) for each in others]
            for advertised, there in (([added], True), ([], False)):
                changing.configure(changing.prefix, *advertised)
                changing.host.run(["quicether", "reload", NETWORK])
                for each in others:
                    settled = partial(_routes, each, added, there)
                    each.host.wait_until(settled, 10, f"{added} of {changing.name}: {there}")
            for watch in watches:
                assert watch.heard() == [("new", added), ("gone", added)]


def _routes(machine: Machine, prefix: str, there: bool) -> bool:
    return (prefix in machine.routes()) is there


def test_down_leaves_nothing_on_any_of_them(mixed: list[Machine]) -> None:
    for each in mixed:
        assert len(each.traces()) > 3
        each.down()
        each.host.wait_until(each.is_clean, 5, "every trace to go")


def test_stopping_the_service_takes_less_than_two_seconds_and_leaves_nothing(
    mixed: list[Machine],
) -> None:
    for each in mixed:
        began = time.monotonic()
        each.host.run(["systemctl", "stop", SERVICE])
        assert time.monotonic() - began < 2
        # The plugin waits a while for a service that may only be restarted.
        each.host.wait_until(each.is_clean, 10, "every trace to go")


def test_a_killed_service_adopts_the_device_of_networkd(mixed: list[Machine]) -> None:
    desk, shed, _ = mixed
    before = desk.index()
    with RouteWatch(desk.host.netns) as watch:
        desk.host.run(["kill", "-KILL", service_pid(desk)])
        desk.host.wait_until(lambda: desk.status().get("ready"), 10, "the tunnel to be back")
        desk.host.wait_until(partial(desk.reaches, shed.inside), 10, "traffic")
        assert desk.index() == before
        kept = [prefix for _, prefix in watch.heard() if prefix == shed.prefix]
        assert len(kept) <= 2, "at most gone until the peer says it again"


def test_a_killed_service_makes_the_device_again_by_netlink(mixed: list[Machine]) -> None:
    desk, shed, _ = mixed
    shed.host.run(["kill", "-KILL", service_pid(shed)])
    shed.host.wait_until(partial(shed.reaches, desk.inside), 10, "traffic")


def test_what_a_killed_service_left_to_networkd_is_cleaned_when_nobody_adopts_it(
    trio: list[Machine],
) -> None:
    desk = trio[0]
    desk.host.run(["quicether", "up", NETWORK])  # no unit that would bring it up again
    assert desk.index()
    desk.host.run(["kill", "-KILL", service_pid(desk)])
    desk.host.wait_until(desk.is_clean, 20, "every trace to go")


def test_another_owner_takes_over_what_networkd_was_left(trio: list[Machine]) -> None:
    desk = trio[0]
    desk.host.run(["quicether", "up", NETWORK])
    desk.host.run(["kill", "-KILL", service_pid(desk)])
    desk.configure(desk.prefix, link="netlink")
    desk.up()
    assert desk.host.run(["systemctl", "is-active", UNIT]).stdout.strip() == "active"
    assert desk.status()["link"] == "netlink"
    assert desk.status()["link_reason"] == "link = netlink is configured"
    assert not [trace for trace in desk.traces() if trace.startswith("05-")]
    assert "unmanaged" in desk.host.run(["networkctl", "status", "quicether0"]).stdout


def test_networkd_keeps_off_a_link_that_is_not_its_own(trio: list[Machine]) -> None:
    desk, shed, _ = trio
    desk.configure(desk.prefix, link="netlink")
    for each in (desk, shed):
        each.up()
    desk.host.wait_until(partial(desk.reaches, shed.inside), 10, "traffic")
    with RouteWatch(desk.host.netns) as watch:
        desk.host.run(["systemctl", "restart", "systemd-networkd"])
        desk.host.run(["networkctl", "reload"])
        assert shed.prefix in desk.routes()
        assert shed.prefix not in {prefix for _, prefix in watch.heard()}


@pytest.mark.parametrize("link", ["netlink", "networkd"])
def test_a_file_for_all_devices_does_not_take_the_tunnels(trio: list[Machine], link: str) -> None:
    desk, shed, _ = trio
    everything = desk.host.root / "etc/systemd/network/20-all.network"
    everything.write_text("[Match]\nName=*\nType=!loopback\n\n[Network]\nDHCP=yes\n")
    try:
        desk.configure(desk.prefix, link=link, device="quicether-work")
        for each in (desk, shed):
            each.up()
        desk.host.wait_until(partial(desk.reaches, shed.inside), 10, "traffic")
        status = desk.host.run(["networkctl", "status", "quicether-work"]).stdout
        assert ("unmanaged" in status) is (link == "netlink")
        assert "20-all.network" not in status
    finally:
        everything.unlink()


def test_rules_that_networkd_takes_away_are_put_back(trio: list[Machine]) -> None:
    """It removes what it did not make when it configures a link; a full tunnel would leak."""
    desk, _, _ = trio
    desk.configure(desk.prefix, link="netlink", gateway="shed")
    desk.up()
    wanted = desk.rules()
    assert len(wanted) > 4
    desk.host.run(["networkctl", "reconfigure", "eth0"])
    show = ["journalctl", "-u", SERVICE, "-o", "cat", "--no-pager"]
    said = "routing rules were taken away, and are put back"
    desk.host.wait_until(lambda: said in desk.host.run(show).stdout, 5, "networkd to remove them")
    desk.host.wait_until(lambda: desk.rules() == wanted, 2, "all rules to be back")
    desk.down()
    assert desk.rules() == set()


def test_networkmanager_keeps_off_a_link_that_is_not_its_own(trio: list[Machine]) -> None:
    _, shed, lap = trio
    lap.configure(lap.prefix, device="quicether-work")
    shed.up()
    lap.host.run(["quicether", "up", NETWORK])
    status = lap.status()
    assert status["link"] == "netlink"
    assert "was not brought up by its profile" in status["link_reason"]
    lap.host.wait_until(partial(lap.reaches, shed.inside), 10, "traffic")
    shown = ["nmcli", "-g", "DEVICE,STATE", "device"]
    assert "quicether-work:unmanaged" in lap.host.run(shown).stdout.split()
    with RouteWatch(lap.host.netns) as watch:
        lap.host.run(["systemctl", "restart", "NetworkManager"])
        lap.host.wait_until(
            lambda: "quicether-work:unmanaged" in lap.host.run(shown, check=False).stdout.split(),
            20,
            "NetworkManager to see the device",
        )
        assert shed.prefix not in {prefix for _, prefix in watch.heard()}
    lap.host.run(["quicether", "down", NETWORK])


@pytest.mark.parametrize(
    ("name", "link", "sentence"),
    [
        ("shed", "networkd", "org.freedesktop.network1"),
        ("shed", "networkmanager", "nmcli connection up quicether"),
    ],
)
def test_an_owner_that_is_not_there_is_refused_with_a_sentence(
    trio: list[Machine], name: str, link: str, sentence: str
) -> None:
    machine = by_name(trio, name)
    machine.configure(machine.prefix, link=link)
    refused = machine.host.run(["quicether", "up", NETWORK], check=False)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert machine.is_clean()


def test_the_service_can_write_its_own_files_for_networkd_and_no_others(
    mixed: list[Machine],
) -> None:
    host = mixed[0].host
    theirs = host.root / "run/systemd/network/20-theirs.network"
    theirs.write_text("[Match]\nName=nothing\n")
    as_service = ["setpriv", "--reuid=quicether", "--regid=quicether", "--clear-groups", "--"]
    inside = ["nsenter", "-t", service_pid(mixed[0]), "-m", "--", *as_service]
    for command in (
        ["touch", "/run/systemd/network/10-more.network"],
        ["rm", "-f", "/run/systemd/network/20-theirs.network"],
        ["rm", "-f", "/run/systemd/network/05-quicether-0.network"],
        ["touch", "/run/quicether-other"],
    ):
        with pytest.raises(CommandError):
            host.run([*inside, *command])
    assert theirs.exists()
    host.run([*inside, "touch", "/run/quicether-networkd/x"])
    (host.root / "run/quicether-networkd/x").unlink()
    theirs.unlink()


@pytest.mark.parametrize("name", ["desk", "shed", "lap"])
def test_restarts_of_all_that_it_needs_under_traffic(mixed: list[Machine], name: str) -> None:
    """Each in turn: the tunnel is back within 5 s, the traffic goes on, and nothing is left over.

    A restart of D-Bus is the end of every connection to it. The service ends with it, and systemd
    starts it again. NetworkManager ends too, and its unit calls that a success, so that an
    administrator has to start it. systemd-networkd stays off the bus until it is restarted, and
    goes on to manage its links, which the service leaves as they are.
    """
    machine = by_name(mixed, name)
    other = mixed[0] if machine is mixed[1] else mixed[1]
    manager = {"desk": ["systemd-networkd"], "shed": [], "lap": ["NetworkManager"]}[name]
    steps = [["restart", unit] for unit in ("quicether.service", *manager, "dbus.service")]
    before = parts(machine)
    steps += [["restart" if name == "desk" else "start", unit] for unit in manager]
    with Stream(other.host, machine.host, other.inside, rate=100_000) as stream:
        for step in steps:
            machine.host.run(["systemctl", *step])
            if step == ["restart", "dbus.service"] and name == "lap":
                machine.host.wait_until(
                    partial(is_stopped, machine, *manager), 5, "NetworkManager to miss the bus"
                )
                continue
            machine.host.wait_until(
                partial(is_back, machine, other), 5, f"the tunnel to be back after {step}"
            )
        machine.host.wait_until(lambda: parts(machine) == before, 5, f"nothing but {before}")
        arrived = stream.received()
        machine.host.wait_until(lambda: stream.received() > arrived, 10, "the transfer to go on")
        stream.finish()
    assert machine.status()["link"] == OWNERS[name]
    machine.down()
    machine.host.wait_until(machine.is_clean, 10, "every trace to go")


def parts(machine: Machine) -> list[str]:
    """What of the tunnel is on the machine, plugins without their number as a process."""
    return sorted(
        re.sub(r"^\d+ (.*nm-quicether-service).*", r"\1", each) for each in machine.traces()
    )


def is_stopped(machine: Machine, unit: str) -> bool:
    """Tell whether a unit does not run."""
    return machine.host.run(["systemctl", "is-active", unit], check=False).returncode != 0


def is_back(machine: Machine, other: Machine) -> bool:
    """Tell whether the tunnel is up as far as its machine knows, and carries packets."""
    return bool(machine.status().get("ready")) and machine.reaches(other.inside)
