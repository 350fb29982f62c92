"""Messages, edits, reactions and redactions, both ways."""

import looking
from harness import in_each_version, refused, same, same_state


@in_each_version
async def messages(scene):
    """All messages of a conversation arrive at the other side, in order."""
    alice, bob, room = await scene.shared_room()
    said = []
    for number in range(10):
        speaker, listener = (alice, bob) if number % 2 == 0 else (bob, alice)
        said.append(await speaker.says(room, f"Line {number}"))
        heard = await listener.sees(f"line {number}", looking.event_id(room, said[-1]))
        same((heard["sender"], heard["content"]["body"]), (speaker.id, f"Line {number}"), "who says what")
    for person in (alice, bob):
        found = [event["event_id"] async for event in person.history(room)]
        same([e for e in found if e in said], said[::-1], f"the order for {person}")
    await same_state(room, alice, bob)


@in_each_version
async def quick_messages(scene):
    """Messages that several users on both sides send at the same time arrive at all of them."""
    alice, bob, room = await scene.shared_room()
    carol = await scene.someone(scene.far, "carol")
    await carol.joins(room, scene.near)
    said = {}
    for number in range(10):
        for speaker in (alice, bob, carol):
            said[await speaker.says(room, f"{speaker.id} says {number}")] = speaker
    for event, speaker in said.items():
        for person in (alice, bob, carol):
            await person.sees(f"a message of {speaker}", looking.event_id(room, event))
    await same_state(room, alice, bob, carol)


@in_each_version
async def edits(scene):
    """An edit arrives at the other side, which then shows the edited message."""
    alice, bob, room = await scene.shared_room()
    for writer, reader in ((alice, bob), (bob, alice)):
        first = await writer.says(room, "Helo")
        await reader.sees("the message", looking.event_id(room, first))
        edit = await writer.says(
            room,
            "* Hello",
            **{
                "m.new_content": {"msgtype": "m.text", "body": "Hello"},
                "m.relates_to": {"rel_type": "m.replace", "event_id": first},
            },
        )
        await reader.sees("the edit", looking.event_id(room, edit))
        replaced = (await reader.event(room, first))["unsigned"]["m.relations"]["m.replace"]
        same(replaced["event_id"], edit, f"what replaces the message for {reader}")


@in_each_version
async def reactions_and_threads(scene):
    """Reactions and replies in threads relate to the same message on both sides."""
    alice, bob, room = await scene.shared_room()
    root = await alice.says(room, "What do you think?")
    await bob.sees("the question", looking.event_id(room, root))
    relation = {"rel_type": "m.annotation", "event_id": root, "key": "👍"}
    reaction = await bob.sends(room, "m.reaction", {"m.relates_to": relation})
    reply = await bob.says(room, "Well…", **{"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    await alice.sees("the reaction", looking.event_id(room, reaction))
    await alice.sees("the reply", looking.event_id(room, reply))
    for person in (alice, bob):
        thread = (await person.event(room, root))["unsigned"]["m.relations"]["m.thread"]
        same((thread["count"], thread["latest_event"]["event_id"]), (1, reply), f"the thread for {person}")


@in_each_version
async def redaction(scene):
    """A redacted event loses its content on both sides, whether its sender or a moderator redacts it."""
    alice, bob, room = await scene.shared_room()
    for sender, redactor in ((alice, alice), (bob, bob), (bob, alice)):
        other = bob if redactor is alice else alice
        said = await sender.says(room, "A secret")
        for person in (alice, bob):
            await person.sees("the message", looking.event_id(room, said))
        redaction = await redactor.redacts(room, said, "Too much")
        await other.sees("the redaction", looking.event_id(room, redaction))
        for person in (alice, bob):
            same((await person.event(room, said))["content"], {}, f"the content for {person}")
    said = await alice.says(room, "Mine")
    await bob.sees("the message", looking.event_id(room, said))
    await refused(bob.redacts(room, said, "Not his"), "redacting the message of a moderator")


@in_each_version
async def unusual_content(scene):
    """Unusual but allowed content arrives unchanged, so that hashes and signatures are valid."""
    alice, bob, room = await scene.shared_room()
    odd = {
        "msgtype": "m.text",
        "body": '\u0000\u001f\u007f\u2028\ufeff 🏴\U000e0067\U000e0062\U000e007f "\\/ </script>',
        "big": 2**53 - 1,
        "small": -(2**53) + 1,
        "nothing": None,
        "": {"": [[], {}, False, True]},
        "ключ": "значение",
        "\U0001f511": "after every letter of the basic plane",
        "\uffee": "before the emoji",
    }
    large = {"msgtype": "m.text", "body": "x" * 60_000}
    for sender, reader in ((alice, bob), (bob, alice)):
        for content in (odd, large):
            sent = await sender.sends(room, "m.room.message", content)
            seen = await reader.sees("the content", looking.event_id(room, sent))
            same(seen["content"], content, "the content")
    await same_state(room, alice, bob)
