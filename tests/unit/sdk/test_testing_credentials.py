"""The test node's vault: what a handler sees of a secret argument, and what the world behind a link gets."""

from __future__ import annotations

import pytest

from plexspaces import HostError
from plexspaces.testing import TestActor, TestLink, TestNode
from tests.guests.keeper import Durable, Errand, Plain

VALUE = "ghp-of-a-user-9876543210"


class World:
    def __init__(self) -> None:
        self.node = TestNode()
        self.service: TestLink = self.node.http("service", lambda request: request.headers)
        self.other: TestLink = self.node.http("other", lambda request: "")
        self.actor: TestActor = self.node.spawn(Plain)


@pytest.fixture(name="world")
def _world() -> World:
    return World()


def test_a_handler_sees_a_token_and_the_world_the_value(world: World) -> None:
    told = world.actor.ask("connect", api_key=VALUE, token="my-token")
    assert told["seen"].startswith("phantom-")
    world.actor.ask("fetch", path="/x", headers={"Authorization": "Bearer my-token", "X-Other": "my-token"})
    got = world.service.requests[0].headers
    assert (got["authorization"], got["x-other"]) == (f"Bearer {VALUE}", "my-token")
    refused = world.actor.ask("fetch", path="/x", link="other", headers={"Authorization": "Bearer my-token"})
    assert refused["code"] == "permission-denied"
    assert world.other.requests == []
    assert world.actor.ask("forget", token="my-token") is True
    assert world.actor.ask("forget", token="my-token") is False


def test_nested_arguments_other_actors_and_runs(world: World) -> None:
    key, _, password = world.actor.ask("blab", api_key=VALUE, login={"user": "ada", "password": "the-password"})["seen"]
    assert key.startswith("phantom-")
    assert password.startswith("phantom-")
    world.node.spawn(Durable)
    told = world.actor.ask("pass_on", to="durable", api_key=VALUE)
    assert told["mine"] == told["theirs"]
    world.node.spawn(Errand)
    assert world.node.actor("errand").run(api_key=VALUE)["seen"].startswith("phantom-")
    assert world.service.requests[-1].headers["authorization"] == f"Bearer {VALUE}"


@pytest.mark.parametrize("value", [12345678, "short", ["a-good-value"]])
def test_secrets_that_are_none(world: World, value: object) -> None:
    with pytest.raises(HostError) as caught:
        world.actor.ask("blab", api_key=value)
    assert caught.value.code == "invalid-argument"


def test_registrations_that_are_none(world: World) -> None:
    assert world.actor.ask("connect", api_key=VALUE, links=["nowhere"])["code"] == "not-found"
    assert world.actor.ask("connect", api_key=VALUE, token="no token")["code"] == "invalid-argument"
    assert world.actor.ask("connect_plainly", value="short")["code"] == "invalid-argument"
    assert world.actor.ask("connect_plainly", value=VALUE, token=VALUE)["code"] == "invalid-argument"
    made = world.actor.ask("connect_plainly", value=VALUE)["token"]
    assert made.startswith("phantom-")
