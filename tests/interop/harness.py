"""The list of all scenarios, the scene in which each runs, and checks."""

import asyncio
import dataclasses
import itertools
import time

import looking
from client import PATIENCE_SECONDS, NotSeen, Refused

VERSIONS = ("10", "11", "12")

SCENARIOS = []
_people = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Something that has to work between two servers."""

    name: str
    play: object
    versions: tuple
    # A scenario that stops servers runs alone, after all others.
    runs_alone: bool


class Failed(Exception):
    """The servers did not do what they should have done."""


def in_each_version(play):
    """Registers a scenario that runs in rooms of each version."""
    SCENARIOS.append(Scenario(play.__name__, play, VERSIONS, runs_alone=False))
    return play


def once(play):
    """Registers a scenario for which the version of the room does not matter."""
    SCENARIOS.append(Scenario(play.__name__, play, (None,), runs_alone=False))
    return play


def outage(play):
    """Registers a scenario in which servers stop."""
    SCENARIOS.append(Scenario(play.__name__, play, (None,), runs_alone=True))
    return play


class Scene:
    """The two servers of a scenario: the room is at the `near` one, and the `far` one takes part in it."""

    def __init__(self, near, far, version, full):
        self.near = near
        self.far = far
        self.version = version
        # Whether outages have their full numbers of events and crashes.
        self.full = full

    async def someone(self, server, name):
        """Registers a user whom no other scenario uses."""
        return await server.register(f"{name}-{next(_people)}")

    async def pair(self):
        """Returns Alice at the near server and Bob at the far one."""
        return await asyncio.gather(self.someone(self.near, "alice"), self.someone(self.far, "bob"))

    async def creates(self, person, **what):
        """Makes a room of the scenario's version and returns its id."""
        return await person.creates(self.version, **what)

    async def shared_room(self, **what):
        """Returns Alice, Bob and a public room of Alice's that both are in."""
        alice, bob = await self.pair()
        room = await self.creates(alice, **{"preset": "public_chat"} | what)
        await bob.joins(room, self.near)
        # A server may answer before it has all of the room.
        await alice.sees("Bob's join", looking.member(room, bob, "join"))
        await same_state(room, alice, bob)
        return alice, bob, room


def check(condition, message):
    if not condition:
        raise Failed(message)


def same(found, expected, what):
    check(found == expected, f"{what}: expected {expected!r}, found {found!r}")


async def refused(request, what, status=403):
    """Checks that a request is refused with a status."""
    try:
        answer = await request
    except Refused as refusal:
        check(refusal.status == status, f"{what}: expected {status}, got {refusal}")
    else:
        raise Failed(f"{what} was not refused: {answer!r}")


async def becomes(what, ask, patience=PATIENCE_SECONDS):
    """Repeats a request until its answer is true, and returns the answer. A failed check counts as false.

    This is for changes that no sync reports.
    """
    deadline = time.monotonic() + patience
    problem = "the answer was false"
    while time.monotonic() < deadline:
        try:
            if answer := await ask():
                return answer
        except (Failed, Refused, NotSeen) as error:
            problem = error
        await asyncio.sleep(0.2)
    raise NotSeen(f"{what}: not in {patience} s, because {problem}")


async def same_state(room, *people, patience=PATIENCE_SECONDS):
    """Waits until all people's servers have the same state of a room, and returns it."""
    deadline = time.monotonic() + patience
    while True:
        states = await asyncio.gather(*(person.state(room) for person in people))
        if all(state == states[0] for state in states):
            return states[0]
        if time.monotonic() > deadline:
            raise Failed(f"the state of {room} differs: {_differences(people, states)}")
        await asyncio.sleep(0.2)


def _differences(people, states):
    keys = sorted(set().union(*states))
    differing = [key for key in keys if len({state.get(key) for state in states}) > 1]
    return {key: {str(p): s.get(key) for p, s in zip(people, states)} for key in differing[:5]}
