"""What was said before one came."""

import looking
from client import path
from harness import becomes, check, in_each_version, once, same, same_state

MANY = 500


@in_each_version
async def backfill(scene):
    """Bob joins a room with 500 messages and reads all of them, each once, in Alice's order."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="public_chat")
    await say_many(alice, room, MANY)
    await bob.joins(room, scene.near)
    await same_state(room, alice, bob)
    expected = [e["event_id"] async for e in alice.history(room) if e["type"] == "m.room.message"]
    same(len(expected), MANY, "how many messages Alice has")

    async def bob_has_all():
        found = [e["event_id"] async for e in bob.history(room) if e["type"] == "m.room.message"]
        check(found == expected, _difference(expected, found))
        return True

    if scene.far.has_history_at_first_reading:
        await bob_has_all()
    else:
        await becomes("all of Alice's messages at Bob's, in their order", bob_has_all)


def _difference(expected, found):
    missing, strange = set(expected) - set(found), set(found) - set(expected)
    twice = len(found) - len(set(found))
    return f"of {len(expected)} events {len(missing)} are missing; {len(strange)} are others, {twice} come twice"


async def say_many(person, room, count):
    """Says so many things, one after the other, so that their order is the same everywhere; returns the ids."""
    return [await person.says(room, f"Message {number}") for number in range(count)]


@in_each_version
async def history_before_the_join(scene):
    """If only members may see the history, a new member does not see earlier messages."""
    alice, bob = await scene.pair()
    visibility = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
    room = await scene.creates(alice, preset="public_chat", initial_state=[visibility])
    before = await alice.says(room, "Before Bob")
    await bob.joins(room, scene.near)
    after = await alice.says(room, "After Bob")
    await bob.sees("what is said after", looking.event_id(room, after))
    found = [event["event_id"] async for event in bob.history(room)]
    same((before in found, after in found), (False, True), "what Bob sees of before and after")


@once
async def jump_to_date(scene):
    """The event at a time is found, although only the other server has it."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="public_chat")
    wanted = await alice.says(room, "The wanted")
    time = (await alice.event(room, wanted))["origin_server_ts"]
    await say_many(alice, room, 60)
    await bob.joins(room, scene.near)
    query = {"ts": str(time), "dir": "f"}
    url = path("rooms", room, "timestamp_to_event").replace("/v3/", "/v1/")
    found = await bob.ask("GET", url, query=query)
    same(found["event_id"], wanted, "the event of the time")
    around = await bob.ask("GET", path("rooms", room, "context", found["event_id"]))
    same(around["event"]["event_id"], wanted, "the event that the context is about")
