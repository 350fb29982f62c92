"""Finding rooms, spaces, and what becomes of rooms."""

import looking
from client import path
from harness import becomes, in_each_version, same, same_state


@in_each_version
async def public_rooms(scene):
    """Bob finds Alice's room in the directory of her server, with its topic."""
    alice, bob = await scene.pair()
    name = f"Gardening with {alice.id}"
    room = await scene.creates(alice, preset="public_chat", visibility="public", name=name, topic="Weeds")
    server = {"server": scene.near.name}
    body = {"filter": {"generic_search_term": name}, "limit": 10}

    async def search():
        return (await bob.ask("POST", path("publicRooms"), body, server))["chunk"]

    found = await becomes("the room in the directory", search)
    same([r["room_id"] for r in found], [room], "the rooms found")
    same((found[0]["name"], found[0]["topic"]), (name, "Weeds"), "what the directory says")

    async def is_listed():
        listed = await bob.ask("GET", path("publicRooms"), query=server)
        return room in [r["room_id"] for r in listed["chunk"]]

    # A server may keep the whole list of another for a while.
    await becomes("the room in the whole list", is_listed)


@in_each_version
async def hierarchy(scene):
    """Bob reads the hierarchy of a space on the other server, including rooms that his server does not know."""
    alice, bob = await scene.pair()
    space = await _space(scene, alice, "The house")
    floor = await _space(scene, alice, "First floor")
    open_room = await scene.creates(alice, preset="public_chat", name="Kitchen")
    closed_room = await scene.creates(alice, preset="private_chat", name="Study")
    for parent, child in ((space, floor), (space, closed_room), (floor, open_room)):
        await alice.sets(parent, "m.space.child", {"via": [scene.near.name], "suggested": True}, child)
    await bob.joins(space, scene.near)
    url = path("rooms", space, "hierarchy").replace("/v3/", "/v1/")
    found = (await bob.ask("GET", url))["rooms"]
    names = [(r["room_id"], r.get("name")) for r in found]
    expected = [(space, "The house"), (floor, "First floor"), (open_room, "Kitchen")]
    same(names, expected, "what Bob sees of the space")
    children = {r["room_id"]: {child["state_key"] for child in r["children_state"]} for r in found}
    same(children, {space: {floor, closed_room}, floor: {open_room}, open_room: set()}, "what is in what")


async def _space(scene, owner, name):
    return await scene.creates(owner, preset="public_chat", name=name, creation_content={"type": "m.space"})


@in_each_version
async def upgrade(scene):
    """A room is upgraded to the scenario's version, and Bob joins the new room from the other server."""
    old_version = {"10": "9", "11": "10", "12": "11"}[scene.version]
    alice, bob = await scene.pair()
    alias = f"moving-{alice.device.lower()}"
    old = await alice.creates(old_version, preset="public_chat", room_alias_name=alias, name="Moving")
    await bob.joins(old, scene.near)
    body = {"new_version": scene.version}
    new = (await alice.ask("POST", path("rooms", old, "upgrade"), body))["replacement_room"]
    is_new = looking.state(old, "m.room.tombstone", lambda c: c["replacement_room"] == new)
    await bob.sees("the tombstone", is_new)
    same(await bob.joins(f"#{alias}:{scene.near.name}"), new, "the room behind the alias")
    created = await bob.state_event(new, "m.room.create")
    same(created["predecessor"]["room_id"], old, "the room before")
    same((await bob.state_event(new, "m.room.name"))["name"], "Moving", "the name of the new room")
    said = await bob.says(new, "All here?")
    await alice.sees("Bob's message in the new room", looking.event_id(new, said))
    await same_state(old, alice, bob)
    await same_state(new, alice, bob)
