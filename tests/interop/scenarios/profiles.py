"""Names and pictures of people."""

import looking
from client import path
from harness import in_each_version, once, same, same_state


@once
async def profile(scene):
    """Bob looks at the profile of Alice, with whom he shares no room."""
    alice, bob = await scene.pair()
    await _names(alice, "Alice of the near side")
    await alice.ask("PUT", path("profile", alice.id, "avatar_url"), {"avatar_url": "mxc://example.org/alice"})
    found = await bob.ask("GET", path("profile", alice.id))
    same(found["displayname"], "Alice of the near side", "Alice's name")
    same(found["avatar_url"], "mxc://example.org/alice", "Alice's picture")


@in_each_version
async def profile_change(scene):
    """A user's new display name is shown to the members of the room on the other server."""
    alice, bob, room = await scene.shared_room()
    for person, watcher in ((alice, bob), (bob, alice)):
        name = f"The new {person.id}"
        await _names(person, name)
        renamed = looking.state(room, "m.room.member", lambda c: c.get("displayname") == name, person.id)
        await watcher.sees("the new name", renamed)
    await same_state(room, alice, bob)


async def _names(person, name):
    await person.ask("PUT", path("profile", person.id, "displayname"), {"displayname": name})
