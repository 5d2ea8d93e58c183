"""The lab does what its names say, and leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import sweep
from support.cables import Cable, Switch
from support.commands import CommandError, wait_until
from support.hosts import LightHost, Router, WholeHost, together
from support.nat import NatBox
from support.relay import Impairment, Relay
from support.relay_carrier import Direction

TESTS = Path(__file__).parents[1]


def footprint(run: str) -> set[str]:
    """All that is on the machine under a run's name."""
    named = f"{sweep.PREFIX}{run}"
    found = {str(path) for path in sweep.NAMESPACES.glob(f"{named}-*")}
    group = sweep.cgroup2() / named
    found |= {str(path) for path in group.rglob("*") if path.is_dir()}
    found |= {str(path) for path in (sweep.STATE / run).rglob("*")}
    for pid in (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if named in groups:
            found.add(f"process {pid}")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if named in line or f"{sweep.STATE}/{run}" in line:
            found.add(f"mount {line}")
    return found


def tcp_mbit(source: LightHost, sink: LightHost, address: str) -> float:
    """TCP throughput from one host to the other, in Mbit/s."""
    server = sink.popen(["iperf3", "--server", "--one-off", "--forceflush"])
    assert server.stdout is not None
    next(line for line in server.stdout if "listening" in line)
    result = source.run(["iperf3", "--client", address, "--time", "2", "--json"]).stdout
    return float(json.loads(result)["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_two_network_managers_reach_each_other_over_a_cable() -> None:
    with (
        together(WholeHost("laptop"), WholeHost("home", "networkd")) as (laptop, home),
        Cable(laptop, home, mtu=1400) as cable,
    ):
        laptop.configure_link(cable.a.ifname, ["192.0.2.1/24", "2001:db8::1/64"])
        home.configure_link(cable.b.ifname, ["192.0.2.2/24", "2001:db8::2/64"], ["192.0.2.1"])
        for address in ("192.0.2.2", "2001:db8::2"):
            laptop.run(["ping", "-c1", "-W2", address])
        assert laptop.run(["systemctl", "is-system-running"]).stdout == "running\n"
        assert home.run(["systemctl", "is-system-running"]).stdout == "running\n"
        assert "eth0:connected" in laptop.run(["nmcli", "-t", "-f", "DEVICE,STATE", "d"]).stdout
        assert "default via 192.0.2.1" in home.run(["ip", "route"]).stdout
        with pytest.raises(CommandError, match=r"[Mm]essage too long"):
            laptop.run(["ping", "-c1", "-Mdo", "-s1373", "192.0.2.2"])


def test_whole_host_is_a_machine_of_its_own() -> None:
    with WholeHost("alone", "none") as host:
        assert host.run(["hostname"]).stdout == "alone\n"
        assert host.run(["ip", "-o", "link"]).stdout.count("\n") == 1
        assert host.run(["cat", "/proc/1/comm"]).stdout == "systemd\n"
        host.run(["useradd", "--create-home", "ann"])
        assert host.run(["id", "-un"], user="ann").stdout == "ann\n"
        assert host.run(["cat"], input="to the host\n").stdout == "to the host\n"
        (host.root / "tmp/note").write_text("from outside")
        assert host.run(["cat", "/tmp/note"]).stdout == "from outside"
        with pytest.raises(CommandError, match="alone# false: exit status 1"):
            host.run(["false"])
        assert "Reached target" in host.journal()
    assert not Path("/home/ann").exists()


def test_popen_on_a_whole_host_ends_with_its_handle() -> None:
    with WholeHost("alone", "none") as host:
        sleeper = host.popen(["sleep", "1000"])
        host.wait_until(lambda: host.run(["pgrep", "-x", "sleep"]), 5, "sleep runs")
        sleeper.terminate()
        gone = ["pgrep", "-x", "sleep"]
        host.wait_until(lambda: host.run(gone, check=False).returncode == 1, 5, "sleep is gone")


def test_a_pulled_cable_is_a_lost_carrier_and_comes_back() -> None:
    with LightHost("a") as a, LightHost("b") as b, Cable(a, b) as cable:
        a.configure_link("eth0", ["192.0.2.1/24"])
        b.configure_link("eth0", ["192.0.2.2/24"])
        ping = ["ping", "-c1", "-W1", "192.0.2.2"]
        a.run(ping)
        cable.cut_both()
        for host in (a, b):
            assert "NO-CARRIER" in host.run(["ip", "link", "show", "eth0"]).stdout
        cable.restore_both()
        a.wait_until(lambda: a.run(ping), 5, "the cable carries again")
        cable.silence()
        assert "NO-CARRIER" not in a.run(["ip", "link", "show", "eth0"]).stdout
        assert a.run(ping, check=False).returncode == 1
        cable.resume()
        a.wait_until(lambda: a.run(ping), 5, "the cable carries again")


def test_a_rate_holds() -> None:
    with LightHost("a") as a, LightHost("b") as b, Cable(a, b, rate=20_000_000):
        a.configure_link("eth0", ["192.0.2.1/24"])
        b.configure_link("eth0", ["192.0.2.2/24"])
        assert 15 < tcp_mbit(a, b, "192.0.2.2") < 20.5


def test_a_switch_joins_many() -> None:
    with LightHost("a") as a, LightHost("b") as b, LightHost("c") as c, Switch() as switch:
        for number, host in enumerate((a, b, c), start=1):
            host.configure_link(switch.plug(host).ifname, [f"192.0.2.{number}/24"])
        for one, other in itertools.permutations((1, 2, 3), 2):
            (a, b, c)[one - 1].run(["ping", "-c1", "-W2", f"192.0.2.{other}"])


def test_relay_delays_and_loses() -> None:
    way = Impairment(delay=0.02, loss=0.2)
    with LightHost("a") as a, LightHost("b") as b, Relay(a, b, way, seed=1) as relay:
        a.configure_link("eth0", ["192.0.2.1/24"])
        b.configure_link("eth0", ["192.0.2.2/24"])
        pings = a.run(["ping", "-c100", "-i0.01", "-W1", "192.0.2.2"], check=False).stdout
        times = [float(line.split("time=")[1].split()[0]) for line in pings.splitlines()[1:] if
                 "time=" in line]  # fmt: skip
        assert 40 <= len(times) <= 85
        assert min(times) >= 40 and sorted(times)[len(times) // 2] < 45
        assert relay.counts()["lost"] > 10
        relay.impair(Impairment())
        assert tcp_mbit(a, b, "192.0.2.2") > 100


def test_relay_treats_the_nth_frame_alike_for_one_seed() -> None:
    def fates(seed: str) -> list[list[float]]:
        with socket.socket() as out:
            direction = Direction(out, seed)
            direction.fault = {
                "delay": 0.1, "jitter": 0.05, "loss": 0.3, "reorder": 0.1, "duplicate": 0.1
            }  # fmt: skip
            return [direction.due_times(0.0, Counter()) for _ in range(200)]

    assert fates("7 forth") == fates("7 forth")
    assert fates("7 forth") != fates("8 forth")


def test_nat_hides_and_protects_what_is_behind_it() -> None:
    with (
        LightHost("inside") as inside,
        NatBox("box") as box,
        LightHost("server") as server,
        Cable(inside, box) as lan,
        Cable(box, server) as wan,
    ):
        inside.configure_link("eth0", ["192.168.1.10/24"], "192.168.1.1")
        box.configure_link(lan.b.ifname, ["192.168.1.1/24"])
        box.configure_link(wan.a.ifname, ["198.51.100.1/24"])
        server.configure_link("eth0", ["198.51.100.2/24"])
        server.run(["ip", "route", "add", "192.168.1.0/24", "via", "198.51.100.1"])
        box.translate(wan.a)
        capture = server.popen([sys.executable, "-c", ECHO_PEER])
        assert capture.stdout is not None
        assert capture.stdout.readline() == "ready\n"
        answer = inside.run([sys.executable, "-c", ASK, "198.51.100.2"]).stdout
        assert answer == "198.51.100.1\n"
        unasked = ["ping", "-c1", "-W1", "192.168.1.10"]
        assert server.run(unasked, check=False).returncode == 1


def test_router_forwards() -> None:
    with (
        LightHost("a") as a,
        Router("r") as r,
        LightHost("b") as b,
        Cable(a, r) as left,
        Cable(r, b) as right,
    ):
        a.configure_link(
            "eth0", ["192.0.2.2/24", "2001:db8:1::2/64"], ["192.0.2.1", "2001:db8:1::1"]
        )
        r.configure_link(left.b.ifname, ["192.0.2.1/24", "2001:db8:1::1/64"])
        r.configure_link(right.a.ifname, ["198.51.100.1/24", "2001:db8:2::1/64"])
        b.configure_link(
            "eth0", ["198.51.100.2/24", "2001:db8:2::2/64"], ["198.51.100.1", "2001:db8:2::1"]
        )
        a.run(["ping", "-c1", "-W2", "198.51.100.2"])
        a.run(["ping", "-c1", "-W2", "2001:db8:2::2"])


def test_nothing_is_left_after_an_exception() -> None:
    run = sweep.current().name
    before = footprint(run)
    with pytest.raises(ZeroDivisionError), whole_lab() as (whole, light):
        during = footprint(run)
        assert any("process" in item for item in during - before)
        light.popen(["sleep", "1000"])
        whole.popen(["sleep", "1000"])
        raise ZeroDivisionError
    # Control groups and folders that the run shares among its hosts stay until it ends.
    shared = {str(sweep.current().cgroup / name) for name in ("outside", "relays")}
    folder = str(sweep.current().directory)
    left = {item for item in footprint(run) - before - shared if not item.startswith(folder)}
    assert left == set()


@contextmanager
def whole_lab() -> Iterator[tuple[WholeHost, LightHost]]:
    with WholeHost("whole") as whole, LightHost("light") as light, Relay(whole, light):
        yield whole, light


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_nothing_after_the_sweep(number: signal.Signals) -> None:
    lab = textwrap.dedent("""
        import signal, time
        from support import sweep
        from support.hosts import LightHost, WholeHost
        from support.relay import Relay
        # What a shell starts in the background ignores it, and so would all that we start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with WholeHost("whole") as whole, LightHost("light") as light, Relay(whole, light):
            light.popen(["sleep", "1000"])
            print(sweep.current().name, flush=True)
            time.sleep(1000)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", lab],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        run = process.stdout.readline().strip()
        assert any("process" in item for item in footprint(run))
        process.send_signal(number)
        process.wait(timeout=30)
    if number == signal.SIGKILL:
        sweep.sweep()
    # Killed processes whose parent is gone stay in /proc until init has reaped them.
    wait_until(lambda: footprint(run) == set(), 10, f"nothing of run {run} is left")


ECHO_PEER = """
import socket
server = socket.create_server(("", 7000))
print("ready", flush=True)
peer, address = server.accept()
peer.sendall(address[0].encode())
peer.close()
"""

ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), 5) as peer:
    print(peer.recv(100).decode())
"""
