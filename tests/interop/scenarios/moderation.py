"""Power, and what is done with it."""

import asyncio

import looking
from harness import becomes, in_each_version, refused, same_state


@in_each_version
async def kick(scene):
    """Bob is kicked by the other server's moderator and comes back."""
    alice, bob, room = await scene.shared_room()
    await alice.does("kick", room, bob, reason="Out")
    await bob.sees("that he is out", looking.left(room))
    await refused(bob.says(room, "Am I?"), "talking after a kick")
    await bob.joins(room, scene.near)
    said = await bob.says(room, "Back")
    await alice.sees("Bob's message", looking.event_id(room, said))
    await same_state(room, alice, bob)


@in_each_version
async def ban(scene):
    """Bob is banned, stays out, and comes back once the ban is lifted."""
    alice, bob, room = await scene.shared_room()
    await alice.does("ban", room, bob, reason="For good")
    await bob.sees("that he is out", looking.left(room))
    await refused(bob.joins(room, scene.near), "joining while banned")
    await alice.does("unban", room, bob)
    await bob.joins(room, scene.near)
    await alice.sees("Bob's join", looking.member(room, bob, "join"))
    await same_state(room, alice, bob)


@in_each_version
async def power_levels(scene):
    """Bob may do what his power level allows and no more, also to users of the other server."""
    anybody_powerful = {"events": {"m.room.power_levels": 50, "m.room.topic": 50}}
    alice, bob, room = await scene.shared_room(power_level_content_override=anybody_powerful)
    await refused(bob.sets(room, "m.room.topic", {"topic": "Mine"}), "setting the topic without power")
    await give_power(alice, bob, room, 50)
    await bob.sees("his power", looking.state(room, "m.room.power_levels", lambda c: c["users"].get(bob.id) == 50))

    await bob.sets(room, "m.room.topic", {"topic": "Ours"})
    await alice.sees("the topic", looking.state(room, "m.room.topic", lambda c: c["topic"] == "Ours"))
    dave = await scene.someone(scene.near, "dave")
    await dave.joins(room)
    await bob.sees("Dave's join", looking.member(room, dave, "join"))
    await bob.does("kick", room, dave)
    await dave.sees("that he is out", looking.left(room))
    await refused(bob.does("kick", room, alice), "kicking who has more power")
    await refused(give_power(bob, bob, room, 100), "taking more power")
    await give_power(bob, bob, room, 0)
    await refused(bob.sets(room, "m.room.topic", {"topic": "Mine"}), "setting the topic after giving up power")
    await same_state(room, alice, bob)


@in_each_version
async def state_at_the_same_time(scene):
    """Both sides change the same state at the same time, repeatedly, and always agree in the end."""
    alice, bob, room = await scene.shared_room()
    await give_power(alice, bob, room, 100 if scene.version != "12" else 99)
    await bob.sees("his power", looking.state(room, "m.room.power_levels", lambda c: c["users"].get(bob.id, 0) > 50))
    carol = await scene.someone(scene.far, "carol")
    for number in range(8):
        await asyncio.gather(
            alice.sets(room, "m.room.topic", {"topic": f"Alice's {number}"}),
            bob.sets(room, "m.room.topic", {"topic": f"Bob's {number}"}),
            alice.sets(room, "m.room.name", {"name": f"Room {number}"}),
            bob.sets(room, "org.example.count", {"count": number}),
        )
        await asyncio.gather(
            alice.does("ban" if number % 2 else "unban", room, carol) if number else bob.says(room, "A pause"),
            bob.sets(room, "org.example.count", {"count": -number}, "other"),
            alice.says(room, f"Round {number}"),
        )
    sent = [await person.says(room, "That is all") for person in (alice, bob)]
    for person in (alice, bob):
        for event in sent:
            await person.sees("the last words", looking.event_id(room, event))
    await same_state(room, alice, bob)
    await becomes("the same topic", lambda: _same_topic(room, alice, bob))


async def _same_topic(room, alice, bob):
    topics = [await person.state_event(room, "m.room.topic") for person in (alice, bob)]
    return topics[0] == topics[1]


async def give_power(giver, taker, room, level):
    """Gives a user a power level."""
    levels = await giver.state_event(room, "m.room.power_levels")
    levels.setdefault("users", {})[taker.id] = level
    await giver.sets(room, "m.room.power_levels", levels)


@in_each_version
async def server_acl(scene):
    """Nobody can join from a server that the server ACL denies, until the ACL allows it."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="public_chat")
    await alice.sets(room, "m.room.server_acl", {"allow": ["*"], "deny": [scene.far.address]})
    await refused(bob.joins(room, scene.near), "joining from a server that is shut out")
    await alice.sets(room, "m.room.server_acl", {"allow": ["*"], "deny": []})
    await bob.joins(room, scene.near)
    said = await bob.says(room, "Let in")
    await alice.sees("Bob's message", looking.event_id(room, said))
    await same_state(room, alice, bob)
