"""Invitations to another server's users."""

import looking
from harness import in_each_version, same, same_state


@in_each_version
async def invite_and_join(scene):
    """Bob is invited, sees the room and the inviter, joins, and both send messages."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="private_chat", name="The back room")
    await alice.does("invite", room, bob, reason="Come in")
    stripped = await bob.sees("the invitation", looking.invitation(room))
    names = [e["content"]["name"] for e in stripped if e["type"] == "m.room.name"]
    same(names, ["The back room"], "the name of the room in the invitation")
    own = [e for e in stripped if e["type"] == "m.room.member" and e["state_key"] == bob.id]
    same([(e["sender"], e["content"].get("reason")) for e in own], [(alice.id, "Come in")], "who invites, and why")
    await bob.joins(room)
    await alice.sees("Bob's join", looking.member(room, bob, "join"))
    said = await bob.says(room, "Thank you")
    await alice.sees("Bob's message", looking.event_id(room, said))
    await same_state(room, alice, bob)


@in_each_version
async def invite_to_direct_chat(scene):
    """The invitation to a direct chat has `is_direct`, also if it is sent when the room is created."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="trusted_private_chat", is_direct=True, invite=[bob.id])
    stripped = await bob.sees("the invitation", looking.invitation(room))
    own = [e for e in stripped if e["type"] == "m.room.member" and e["state_key"] == bob.id]
    same([e["content"].get("is_direct") for e in own], [True], "whether it is direct")
    await bob.joins(room)
    said = await alice.says(room, "Just us")
    await bob.sees("Alice's message", looking.event_id(room, said))
    await same_state(room, alice, bob)


@in_each_version
async def invite_rejected(scene):
    """Bob rejects an invitation, and both sides know; he can be invited again."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="private_chat")
    await alice.does("invite", room, bob)
    await bob.sees("the invitation", looking.invitation(room))
    await bob.leaves(room)
    await bob.sees("that the invitation is gone", looking.left(room))
    await alice.sees("the rejection", looking.member(room, bob, "leave"))

    bob.forgets()
    await alice.does("invite", room, bob)
    await bob.sees("the second invitation", looking.invitation(room))
    await bob.joins(room)
    await same_state(room, alice, bob)


@in_each_version
async def invite_withdrawn(scene):
    """Alice withdraws an invitation before Bob answers."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="private_chat")
    await alice.does("invite", room, bob)
    await bob.sees("the invitation", looking.invitation(room))
    await alice.does("kick", room, bob, reason="A mistake")
    await bob.sees("that the invitation is gone", looking.left(room))


@in_each_version
async def invite_where_server_is_in_room(scene):
    """Carol is invited to a room that her server is already in."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="private_chat")
    await alice.does("invite", room, bob)
    await bob.sees("the invitation", looking.invitation(room))
    await bob.joins(room)
    carol = await scene.someone(scene.far, "carol")
    await alice.does("invite", room, carol)
    await carol.sees("the invitation", looking.invitation(room))
    await carol.joins(room)
    await alice.sees("Carol's join", looking.member(room, carol, "join"))
    await same_state(room, alice, bob, carol)
