"""NetworkManager's connection → what the service is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicether.errors import ConfigError
from quicether_nm.profile import DEFAULT_TIMEOUT, Profile, parse_profile


def connection(**settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a fresh profile as NetworkManager sends it, with settings changed or added to."""
    fresh: dict[str, dict[str, Any]] = {
        "connection": {
            "id": "quicether",
            "uuid": "5f9c3a52-6f7e-4a58-9d0e-0b6f4a6a3c11",
            "type": "vpn",
            "permissions": [],
        },
        "vpn": {
            "service-type": "org.freedesktop.NetworkManager.quicether",
            "data": {"network": "home", "peers": "192.0.2.1:9000"},
        },
        "ipv4": {"method": "auto"},
        "ipv6": {"method": "auto"},
    }
    for name, changed in settings.items():
        fresh[name] = {**fresh[name], **changed}
    return fresh


def test_a_fresh_profile() -> None:
    assert parse_profile(connection()) == Profile(
        tunnel="home",
        options={"network": "home", "peers": "192.0.2.1:9000"},
        ident="quicether",
        uuid="5f9c3a52-6f7e-4a58-9d0e-0b6f4a6a3c11",
        timeout=DEFAULT_TIMEOUT,
        ipv4=True,
        ipv6=True,
        private=False,
    )


@pytest.mark.parametrize("data", [{}, {"network": ""}])
def test_without_a_network_the_profile_names_the_tunnel(data: dict[str, str]) -> None:
    assert parse_profile(connection(vpn={"data": data})).tunnel == "quicether"


def test_options_go_to_the_service_unjudged() -> None:
    data = {"lisen-port": "no number", "": " "}
    assert parse_profile(connection(vpn={"data": data})).options == data


@pytest.mark.parametrize(
    ("permissions", "private"), [([], False), (["user:alice:"], True), (["group:staff:"], True)]
)
def test_a_profile_with_permissions_is_private(permissions: list[str], private: bool) -> None:
    about = {"permissions": permissions}
    assert parse_profile(connection(connection=about)).private is private


def test_a_timeout_of_the_profile_counts() -> None:
    assert parse_profile(connection(vpn={"timeout": 7})).timeout == 7.0
    assert parse_profile(connection(vpn={"timeout": 0})).timeout == DEFAULT_TIMEOUT


@pytest.mark.parametrize("method", ["disabled", "manual", "link-local", "ignore"])
def test_a_family_whose_method_is_not_auto_is_off(method: str) -> None:
    profile = parse_profile(connection(ipv6={"method": method}))
    assert (profile.ipv4, profile.ipv6) == (True, False)


def test_missing_ip_settings_mean_auto() -> None:
    bare = connection()
    del bare["ipv4"], bare["ipv6"]
    profile = parse_profile(bare)
    assert (profile.ipv4, profile.ipv6) == (True, True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"ipv4": {"method": "disabled"}, "ipv6": {"method": "disabled"}},
            "ipv4.method and ipv6.method: at least one of them has to be auto",
        ),
        ({"vpn": {"data": []}}, "vpn.data [] is not a dictionary of strings"),
        ({"vpn": {"data": {"mtu": 1400}}}, "vpn.data 'mtu' = 1400 is not a pair of strings"),
        ({"vpn": {"timeout": "5"}}, "vpn.timeout '5' is not a number of seconds"),
        ({"vpn": {"timeout": -1}}, "vpn.timeout -1 is not a number of seconds"),
        ({"connection": {"uuid": 5}}, "connection.uuid 5 is not a text"),
        (
            {"connection": {"permissions": "user:alice:"}},
            "connection.permissions 'user:alice:' is not a list of user:NAME:",
        ),
        (
            {"connection": {"id": ""}, "vpn": {"data": {}}},
            "neither vpn.data network nor connection.id names the tunnel",
        ),
    ],
)
def test_what_cannot_be_right_is_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_profile(connection(**settings))
    assert str(caught.value) == sentence


def test_a_connection_without_setting_vpn_is_none_of_ours() -> None:
    with pytest.raises(ConfigError, match="no setting vpn"):
        parse_profile({"connection": {"id": "eth0"}})


scalars = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
values = scalars | st.lists(scalars) | st.dictionaries(st.text(), scalars)
names = st.sampled_from(["connection", "vpn", "ipv4", "ipv6"])
properties = st.sampled_from(["id", "uuid", "permissions", "data", "timeout", "method"])


@given(st.dictionaries(names, st.dictionaries(properties, values)))
def test_any_dictionary_is_a_profile_or_a_config_error(anything: dict[str, Any]) -> None:
    try:
        profile = parse_profile(anything)
    except ConfigError as error:
        assert str(error)
    else:
        assert profile.tunnel
        assert profile.ipv4 or profile.ipv6
