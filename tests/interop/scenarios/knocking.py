"""Knocking at rooms of another server."""

import looking
from harness import in_each_version, refused, same, same_state
from scenarios.joining import restricted_room


@in_each_version
async def knock_and_be_let_in(scene):
    """Bob knocks, Alice sees his reason and invites him, and he joins."""
    alice, bob, room = await _someone_knocks(scene)
    await alice.does("invite", room, bob)
    await bob.sees("the invitation", looking.invitation(room))
    await bob.joins(room, scene.near)
    await alice.sees("Bob's join", looking.member(room, bob, "join"))
    await same_state(room, alice, bob)


@in_each_version
async def knock_denied(scene):
    """Bob knocks, is refused, and knocks again."""
    alice, bob, room = await _someone_knocks(scene)
    await alice.does("kick", room, bob, reason="Not today")
    await alice.sees("that Bob was turned away", looking.member(room, bob, "leave"))
    # Bob's server need not be notified, because it is not in the room.
    alice.forgets()
    await bob.knocks(room, "And now?", scene.near)
    knock = await alice.sees("the second knock", looking.member(room, bob, "knock"))
    same(knock["content"].get("reason"), "And now?", "the reason of the second knock")


@in_each_version
async def knock_withdrawn(scene):
    """Bob knocks and withdraws the knock."""
    alice, bob, room = await _someone_knocks(scene)
    await bob.leaves(room)
    await bob.sees("that he is gone", looking.left(room))
    if scene.far.federates_withdrawn_knocks:
        await alice.sees("that Bob is gone", looking.member(room, bob, "leave"))


@in_each_version
async def knock_restricted(scene):
    """In a room with `knock_restricted`, others knock and members of the space join."""
    alice, bob = await scene.pair()
    space, room = await restricted_room(scene, alice, "knock_restricted")
    await refused(bob.joins(room, scene.near), "joining without being in the space")
    await bob.knocks(room, "Let me in", scene.near)
    await alice.sees("the knock", looking.member(room, bob, "knock"))
    await bob.joins(space, scene.near)
    await bob.joins(room, scene.near)
    await alice.sees("Bob's join", looking.member(room, bob, "join"))
    await same_state(room, alice, bob)


async def _someone_knocks(scene):
    alice, bob = await scene.pair()
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
    room = await scene.creates(alice, preset="private_chat", name="The club", initial_state=[rules])
    await bob.knocks(room, "Knock knock", scene.near)
    knock = await alice.sees("the knock", looking.member(room, bob, "knock"))
    same(knock["content"].get("reason"), "Knock knock", "the reason of the knock")
    stripped = await bob.sees("his own knock", looking.own_knock(room))
    names = [e["content"]["name"] for e in stripped if e["type"] == "m.room.name"]
    same(names, ["The club"], "the name of the room at whose door Bob is")
    return alice, bob, room
