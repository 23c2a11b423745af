"""Which hosts the server answers to, by hand; test_serve.py asks over sockets."""

from __future__ import annotations

import pytest

from lit_bert.product.hosts import Hosts, parse, parse_origin


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost.:8000", "localhost", "8000"),
        ("127.0.0.1:80", "127.0.0.1", "80"),
        ("[::1]:80", "::1", "80"),
        ("[0:0:0:0:0:0:0:1]", "::1", None),
        ("[::ffff:10.0.0.1]", "10.0.0.1", None),
        ("a_b.example:0", "a_b.example", "0"),
        ("a.example:65535", "a.example", "65535"),
    ],
)
def test_a_host_has_one_form(value: str, host: str, port: str | None) -> None:
    assert parse(value) == (host, port)


@pytest.mark.parametrize(
    "value",
    [
        *("", ".", ":80", "a b", "a/b", "a@b", "a:65536", "a:-1", "a:", "[::1", "::1", "[127.0.0.1]", "[a]"),
        *("ü.example", "a" * 254, "a\n", "[fe80::1%eth0]", "a:80:80"),
    ],
)
def test_what_is_no_host_is_none(value: str) -> None:
    assert parse(value) is None


def test_an_origin_is_a_scheme_of_the_web_and_a_host() -> None:
    assert parse_origin("https://A.example:1") == "a.example"
    for value in ("null", "", "a.example", "file://a", "HTTP://a", "http://a/", "http://", "http://a@b"):
        assert parse_origin(value) is None


def test_its_own_names_loopback_and_the_address_that_was_reached_are_answered() -> None:
    hosts = Hosts("0.0.0.0")
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0"):
        assert hosts.allows(host)
    assert not hosts.allows("10.0.0.5")
    assert hosts.allows("10.0.0.5", local_address="10.0.0.5")
    assert hosts.allows("10.0.0.5", local_address="::ffff:10.0.0.5")
    assert hosts.allows("fe80::1", local_address="fe80::1%eth0")
    assert not hosts.allows("10.0.0.5", local_address="10.0.0.6")
    assert not hosts.allows("evil.example", local_address="10.0.0.5")


def test_a_name_has_to_be_the_whole_name() -> None:
    hosts = Hosts("model.example", ["api.example"])
    assert hosts.allows("model.example")
    assert hosts.allows("api.example")
    for host in ("example", "a.api.example", "api.example.evil", "localhost.evil"):
        assert not hosts.allows(host)


def test_a_star_is_any_host() -> None:
    assert Hosts("127.0.0.1", ["*"]).allows("evil.example")
    assert not Hosts("127.0.0.1", ["*.example"]).allows("a.example")


@pytest.mark.parametrize(
    ("listening", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
    ],
)
def test_it_knows_whether_only_this_machine_reaches_it(listening: str, is_loopback: bool) -> None:
    assert Hosts(listening).loopback == is_loopback


def test_what_is_accepted_is_said_to_people_once() -> None:
    loopback = "localhost, 127.0.0.0/8 and [::1], the address that a client connects to"
    assert str(Hosts("127.0.0.1")) == loopback
    assert str(Hosts("0.0.0.0", ["b.example", "localhost", "a.example", "b.example"])) == (
        f"{loopback}, b.example, a.example"
    )
    assert str(Hosts("127.0.0.1", ["a.example", "*"])) == "any"
