"""Servers that stop, or crash, while the other goes on: in the end both have the same events and the same state."""

import asyncio
import contextlib
import itertools

import aiohttp

import looking
from client import NotSeen, Refused
from harness import becomes, check, outage, same_state
from scenarios.history import say_many

# Catching up takes a busy machine a while.
PATIENCE_SECONDS = 300
PATIENCE_FULL_SECONDS = 1200


class Talk:
    """Rooms that Alice and Bob are in, and the events that servers have acknowledged there."""

    def __init__(self, scene, alice, bob, rooms):
        self.alice = alice
        self.bob = bob
        self.rooms = rooms
        self.events_per_room = 100 if scene.full else 20
        self._said = {room: [] for room in rooms}
        self._patience = PATIENCE_FULL_SECONDS if scene.full else PATIENCE_SECONDS

    @classmethod
    async def begins(cls, scene):
        """Makes the rooms: 20, or fewer where time matters."""
        alice, bob = await scene.pair()

        async def shared_room():
            room = await scene.creates(alice, preset="public_chat")
            await bob.joins(room, scene.near)
            await same_state(room, alice, bob)
            return room

        rooms = [await shared_room() for _ in range(20 if scene.full else 5)]
        return cls(scene, alice, bob, rooms)

    async def goes_on(self, *people):
        """Everybody sends to all rooms, some state among the messages. Returns when all is acknowledged."""
        await asyncio.gather(*(self._sends(person, room) for person in people for room in self.rooms))

    async def goes_on_regardless(self, *people, patience=PATIENCE_SECONDS):
        """The same, where servers may be away: who gets no answer sends the same until there is one."""
        await asyncio.gather(*(self._sends(person, room, patience) for person in people for room in self.rooms))

    async def _sends(self, person, room, patience=0):
        for number in range(self.events_per_room):
            text = f"{person.id} says {number}"
            transaction = person.new_transaction()

            async def send():
                if number % 10 == 9 and person is self.alice:
                    return await person.sets(room, "m.room.topic", {"topic": text})
                content = {"msgtype": "m.text", "body": text}
                return await person.sends(room, "m.room.message", content, transaction)

            self._said[room].append(await _until_answered(send, patience) if patience else await send())

    async def some_arrived(self, person, count):
        """Waits until that many of the events have arrived at the server of a user."""
        arrived = set()

        def count_arrived(answer):
            for joined in answer.get("rooms", {}).get("join", {}).values():
                arrived.update(event["event_id"] for event in joined["timeline"]["events"])
            return len(arrived.intersection(itertools.chain(*self._said.values()))) >= count

        await person.sees(f"{count} of the events", count_arrived, self._patience)

    async def agrees(self):
        """Waits until both servers have each event of each room that was acknowledged, and the same state."""
        for room in self.rooms:
            await becomes(f"the same events in {room}", lambda room=room: self._same_events(room), self._patience)
            await same_state(room, self.alice, self.bob, patience=self._patience)

    async def _same_events(self, room):
        first, second = [await _events(person, room) for person in (self.alice, self.bob)]
        said = set(self._said[room])
        sizes = f"{len(first)} and {len(second)}"
        lost = f"{len(said - first)} and {len(said - second)} of {len(said)}"
        check(first == second and said <= first, f"events: {sizes}; lost: {lost}; {len(first ^ second)} differ")
        return True


async def _events(person, room):
    return {event["event_id"] async for event in person.history(room)}


async def _until_answered(send, patience):
    """Tries again where a server is away."""

    async def answered():
        with contextlib.suppress(aiohttp.ClientError):
            return await send()

    return await becomes("an answer", answered, patience)


async def _shows_life(scene, server, talk):
    """Lets both users send, because Synapse does not notify other servers when it is back."""
    if not server.notifies_others_after_a_restart:
        here, there = (talk.alice, talk.bob) if server is scene.near else (talk.bob, talk.alice)
        await here.says(talk.rooms[0], "I am back")
        await there.says(talk.rooms[0], "Welcome back")


@outage
async def outage_of_the_peer(scene):
    """The far server stops while the near one continues. It starts again and catches up."""
    talk = await Talk.begins(scene)
    await scene.far.stop()
    await talk.goes_on(talk.alice)
    await scene.far.start()
    await _shows_life(scene, scene.far, talk)
    await talk.agrees()


@outage
async def outage_of_both(scene):
    """Both servers restart while both sides send messages."""
    talk = await Talk.begins(scene)
    talking = asyncio.create_task(talk.goes_on_regardless(talk.alice, talk.bob))
    try:
        await talk.some_arrived(talk.bob, len(talk.rooms) * talk.events_per_room // 2)
        await asyncio.gather(scene.near.stop(), scene.far.stop())
        await asyncio.gather(scene.near.start(), scene.far.start())
        await talking
    finally:
        talking.cancel()
    for server in (scene.near, scene.far):
        await _shows_life(scene, server, talk)
    await talk.agrees()


@outage
async def outage_during_catch_up(scene):
    """The far server is killed while it catches up, starts again, and has everything in the end."""
    talk = await Talk.begins(scene)
    await talk.bob.syncs()
    await scene.far.stop()
    await talk.goes_on(talk.alice)
    await scene.far.start()
    await _shows_life(scene, scene.far, talk)
    await talk.some_arrived(talk.bob, len(talk.rooms))
    await scene.far.kill()
    await scene.far.start()
    await _shows_life(scene, scene.far, talk)
    await talk.agrees()


@outage
async def outage_during_join(scene):
    """The far server is killed while it joins a room, at several moments; a later join succeeds."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="public_chat")
    for number in range(100 if scene.full else 30):
        await alice.sets(room, "org.example.entry", {"number": number}, str(number))
    # It is killed at once, and a while after it has asked; the last time, when the near server has it in the room.
    for moment in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, None) if scene.full else (0.05, 0.2, None):
        joining = asyncio.create_task(bob.joins(room, scene.near))
        if moment is None:
            await alice.sees("Bob's join", looking.member(room, bob, "join"))
        else:
            await asyncio.wait([joining], timeout=moment)
        await scene.far.kill()
        with contextlib.suppress(aiohttp.ClientError, Refused, NotSeen):
            await joining
        await scene.far.start()
    await becomes("Bob's join", lambda: bob.joins(room, scene.near))
    said = await alice.says(room, "Welcome")
    await bob.sees("Alice's message", looking.event_id(room, said))
    answer = await bob.says(room, "At last")
    await alice.sees("Bob's message", looking.event_id(room, answer))
    await same_state(room, alice, bob)


@outage
async def outage_during_backfill(scene):
    """The far server is killed repeatedly while it fetches history, and has all of it in the end."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="public_chat")
    await say_many(alice, room, 500 if scene.full else 200)
    await bob.joins(room, scene.near)
    for moment in (0.0, 0.02, 0.05, 0.1, 0.2, 0.5) if scene.full else (0.02, 0.2):
        reading = asyncio.create_task(_events(bob, room))
        await asyncio.wait([reading], timeout=moment)
        await scene.far.kill()
        with contextlib.suppress(aiohttp.ClientError, Refused, NotSeen):
            await reading
        await scene.far.start()

    async def bob_has_all():
        expected, found = await _events(alice, room), await _events(bob, room)
        check(expected == found, f"of {len(expected)} events {len(expected - found)} are missing")
        return True

    await becomes("all of the history at Bob's", bob_has_all, PATIENCE_SECONDS)
    await same_state(room, alice, bob)
