"""Typing, receipts and presence, which are sent but not stored as events."""

import looking
from client import path
from harness import in_each_version, once, same


@in_each_version
async def typing(scene):
    """Each side sees that the other types, and that it has stopped."""
    alice, bob, room = await scene.shared_room()
    for typist, watcher in ((alice, bob), (bob, alice)):
        await _types(typist, room, {"typing": True, "timeout": 60_000})
        is_typing = looking.ephemeral(room, "m.typing", lambda c: typist.id in c["user_ids"])
        await watcher.sees("the typing", is_typing)
        watcher.forgets()
        await _types(typist, room, {"typing": False})
        stopped = looking.ephemeral(room, "m.typing", lambda c: typist.id not in c["user_ids"])
        await watcher.sees("the end of the typing", stopped)


async def _types(person, room, body):
    await person.ask("PUT", path("rooms", room, "typing", person.id), body)


@in_each_version
async def receipts(scene):
    """Each side sees the receipts of the other, also in threads. Private receipts are not sent."""
    alice, bob, room = await scene.shared_room()
    for writer, reader in ((alice, bob), (bob, alice)):
        first = await writer.says(room, "Read me")
        in_thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": first}}
        reply = await writer.says(room, "In the thread", **in_thread)
        last = await writer.says(room, "And me")
        await reader.sees("the messages", looking.event_id(room, last))

        await _reads(reader, room, "m.read.private", last, {})
        await _reads(reader, room, "m.read", first, {})
        plain = await writer.sees("the receipt", looking.receipt(room, first, reader))
        same("thread_id" in plain, False, "whether the receipt names a thread")
        await _reads(reader, room, "m.read", reply, {"thread_id": first})
        threaded = await writer.sees("the receipt in the thread", looking.receipt(room, reply, reader))
        same(threaded.get("thread_id"), first, "the thread of the receipt")
        for kind in ("m.read", "m.read.private"):
            same(writer.has_heard(looking.receipt(room, last, reader, kind)), None, "the private receipt")


async def _reads(person, room, kind, event, body):
    await person.ask("POST", path("rooms", room, "receipt", kind, event), body)


@once
async def presence(scene):
    """Users who share a room see each other's presence and status message."""
    alice, bob, _ = await scene.shared_room()
    for person, watcher in ((alice, bob), (bob, alice)):
        for state, words in (("online", "Having tea"), ("unavailable", "Napping")):
            body = {"presence": state, "status_msg": words}
            await person.ask("PUT", path("presence", person.id, "status"), body)

            def is_it(content):
                return (content["presence"], content.get("status_msg")) == (state, words)

            await watcher.sees(f"that {person} is {state}", looking.presence(person, is_it))
