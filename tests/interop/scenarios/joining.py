"""Joining rooms of another server, leaving them, and coming back."""

import looking
from harness import in_each_version, refused, same, same_state


@in_each_version
async def join_by_alias(scene):
    """Bob joins a room by its alias on the other server, and gets its state and messages."""
    alice, bob = await scene.pair()
    alias = f"lobby-{alice.device.lower()}"
    room = await scene.creates(
        alice, preset="public_chat", room_alias_name=alias, name="The lobby", topic="Who comes, who goes"
    )
    same(await bob.joins(f"#{alias}:{scene.near.name}"), room, "the room behind the alias")
    await alice.sees("Bob's join", looking.member(room, bob, "join"))
    await bob.sees("the name of the room", looking.state(room, "m.room.name", lambda c: c["name"] == "The lobby"))
    await bob.sees("Alice in the room", looking.member(room, alice, "join"))
    state = await same_state(room, alice, bob)
    same(("m.room.topic", "") in state, True, "whether the state has the topic")


@in_each_version
async def second_join(scene):
    """After the first user of a server, others join, and both servers list them as members."""
    alice, bob, room = await scene.shared_room()
    carol = await scene.someone(scene.far, "carol")
    await carol.joins(room, scene.near)
    dave = await scene.someone(scene.near, "dave")
    await dave.joins(room)
    for person in (alice, bob):
        await person.sees("Carol's join", looking.member(room, carol, "join"))
        await person.sees("Dave's join", looking.member(room, dave, "join"))
    await same_state(room, alice, bob, carol, dave)


@in_each_version
async def leave_and_come_back(scene):
    """The only member of a server leaves and comes back, and gets the messages sent in between and after."""
    alice, bob, room = await scene.shared_room()
    await bob.leaves(room)
    await alice.sees("that Bob left", looking.member(room, bob, "leave"))
    meanwhile = [await alice.says(room, f"Without Bob, {number}") for number in range(5)]
    await alice.sets(room, "m.room.topic", {"topic": "Bob is away"})

    await bob.joins(room, scene.near)
    after = await alice.says(room, "Welcome back")
    await bob.sees("the message after the return", looking.event_id(room, after))
    answer = await bob.says(room, "Here I am")
    await alice.sees("Bob's message after the return", looking.event_id(room, answer))
    await same_state(room, alice, bob)
    history = [event["event_id"] async for event in bob.history(room)]
    same([e for e in history if e in meanwhile], meanwhile[::-1], "what Bob finds of the time between")


@in_each_version
async def join_refused(scene):
    """A user without an invitation cannot join an invite-only room, and the refusal says so."""
    alice, bob = await scene.pair()
    room = await scene.creates(alice, preset="private_chat")
    await refused(bob.joins(room, scene.near), "joining without an invitation")


@in_each_version
async def restricted_join(scene):
    """Members of a space join its room. Others cannot, whether or not their server is in the room."""
    alice, bob = await scene.pair()
    space, room = await restricted_room(scene, alice, "restricted")
    await refused(bob.joins(room, scene.near), "joining without being in the space")
    await bob.joins(space, scene.near)
    await bob.joins(room, scene.near)
    joined = await alice.sees("Bob's join", looking.member(room, bob, "join"))
    same(joined["content"].get("join_authorised_via_users_server"), alice.id, "who vouched for Bob")
    await same_state(room, alice, bob)

    carol = await scene.someone(scene.far, "carol")
    await refused(carol.joins(room, scene.near), "joining without being in the space, where Bob is")
    await carol.joins(space, scene.near)
    await carol.joins(room, scene.near)
    await alice.sees("Carol's join", looking.member(room, carol, "join"))
    said = await carol.says(room, "Made it")
    await alice.sees("Carol's message", looking.event_id(room, said))
    await same_state(room, alice, bob, carol)


async def restricted_room(scene, owner, rule):
    """Returns a public space and a room that lets its members in."""
    space = await scene.creates(owner, preset="public_chat", creation_content={"type": "m.space"})
    allow = [{"type": "m.room_membership", "room_id": space}]
    rules = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": rule, "allow": allow}}
    room = await scene.creates(owner, preset="private_chat", initial_state=[rules])
    await owner.sets(space, "m.space.child", {"via": [scene.near.name]}, room)
    return space, room
