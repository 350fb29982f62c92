"""Two people have a whole conversation through matrix-nio, and everything in it is checked.

Usage: conversation.py URL ADMINISTRATOR_TOKEN
"""

import asyncio
import io
import logging
import struct
import sys
import zlib

from nio import (
    AsyncClient,
    AsyncClientConfig,
    InviteMemberEvent,
    ReceiptEvent,
    RedactedEvent,
    RedactionEvent,
    Response,
    RoomMemberEvent,
    RoomMessageImage,
    RoomMessageText,
    TypingNoticeEvent,
)
from nio.responses import ErrorResponse

# How long anything may take; a server that answers needs a fraction of it.
PATIENCE_SECONDS = 60
PASSWORD = "correct horse battery staple"
# Nothing is tried again: what fails once, fails.
ONE_TRY = AsyncClientConfig(max_limit_exceeded=0, max_timeouts=0, request_timeout=PATIENCE_SECONDS)


class Failed(Exception):
    """What the server did is not what it should have done."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def done(response, what):
    """Returns a response that must be a success."""
    check(not isinstance(response, ErrorResponse), f"{what}: {response}")
    check(isinstance(response, Response), f"{what}: {response!r} is no response")
    return response


def refused(response, errcode, what):
    """Checks that a response is this error."""
    check(isinstance(response, ErrorResponse), f"{what} was not refused: {response!r}")
    check(response.status_code == errcode, f"{what}: expected {errcode}, not {response}")


class Person:
    """Somebody with a client."""

    def __init__(self, url, name):
        self.name = name
        self.client = AsyncClient(url, name, config=ONE_TRY)

    def waits_for(self, what, find):
        """Synchronises in the background until `find(response)` returns something, and returns that."""
        return asyncio.create_task(asyncio.wait_for(self._sync_until(what, find), PATIENCE_SECONDS))

    async def sees(self, what, find):
        try:
            return await self.waits_for(what, find)
        except asyncio.TimeoutError:
            raise Failed(f"{self.name} did not see {what} in {PATIENCE_SECONDS} s") from None

    async def _sync_until(self, what, find):
        while True:
            response = done(await self.client.sync(timeout=10_000), f"{self.name} waits for {what}")
            found = find(response)
            if found:
                return found

    async def says(self, room_id, text):
        content = {"msgtype": "m.text", "body": text}
        sent = await self.client.room_send(room_id, "m.room.message", content)
        return done(sent, f"{self.name} says {text!r}").event_id

    async def raw(self, method, path, data=None):
        """Returns the status and the JSON of a request that nio has no method for."""
        headers = {"Authorization": f"Bearer {self.client.access_token}"}
        response = await self.client.send(method, path, data, headers)
        return response.status, await response.json()


def in_timeline(room_id, kind, sender, is_it=lambda event: True):
    """Finds an event of a kind and sender in the timeline of a room."""

    def find(response):
        joined = response.rooms.join.get(room_id)
        events = joined.timeline.events if joined else []
        of_kind = [e for e in events if isinstance(e, kind) and e.sender == sender]
        return next((e for e in of_kind if is_it(e)), None)

    return find


def in_ephemeral(room_id, kind, is_it):
    """Finds an ephemeral event of a kind in a room."""

    def find(response):
        joined = response.rooms.join.get(room_id)
        events = joined.ephemeral if joined else []
        return next((e for e in events if isinstance(e, kind) and is_it(e)), None)

    return find


def picture():
    """Returns a PNG of 64 × 64 pixels in changing colours."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    # Each row begins with the filter that it uses: none.
    rows = b"".join(b"\0" + row(y) for y in range(64))
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def row(y):
    return b"".join(bytes((x * 4, y * 4, x ^ y)) for x in range(64))


async def register(alice, bob, token):
    """Alice registers with the token that the server printed, Bob because registration is open."""
    # nio's own method for tokens expects one more stage after the token; here the token is the whole flow.
    proof = {"type": "m.login.registration_token", "token": token}
    registered = await alice.client.register_interactive(alice.name, PASSWORD, proof)
    status = registered.transport_response.status
    check(status == 200, f"registering with the printed token: {status} {registered}")
    logged_in = done(await alice.client.login(PASSWORD, "nio"), "Alice logs in")
    check(logged_in.user_id == f"@{alice.name}:localhost", f"Alice became {logged_in.user_id}")

    registered = done(await bob.client.register(bob.name, PASSWORD), "Bob registers")
    check(registered.user_id == f"@{bob.name}:localhost", f"Bob became {registered.user_id}")
    who = done(await bob.client.whoami(), "Bob asks who he is")
    check(who.user_id == bob.client.user_id, f"Bob is {who.user_id}")

    again = AsyncClient(alice.client.homeserver, "mallory", config=ONE_TRY)
    second = await again.register_interactive("mallory", PASSWORD, proof)
    status = second.transport_response.status
    check(status == 401, f"the token for the administrator served twice: {status}")
    await again.close()


async def meet(alice, bob):
    """Alice makes a room and invites Bob, who joins. Returns the room."""
    for person in (alice, bob):
        done(await person.client.sync(timeout=0), f"the first sync of {person.name}")
    created = done(
        await alice.client.room_create(name="Parlour", topic="A whole conversation"), "Alice creates a room"
    )
    room_id = created.room_id
    invitation = bob.waits_for("the invitation", lambda response: response.rooms.invite.get(room_id))
    done(await alice.client.room_invite(room_id, bob.client.user_id), "Alice invites Bob")
    invited = await invitation
    to_bob = [e for e in invited.invite_state if isinstance(e, InviteMemberEvent)]
    check(
        any(e.state_key == bob.client.user_id and e.membership == "invite" for e in to_bob),
        f"the invitation does not name Bob: {invited.invite_state}",
    )

    done(await bob.client.join(room_id), "Bob joins")
    await alice.sees(
        "Bob's join",
        in_timeline(room_id, RoomMemberEvent, bob.client.user_id, lambda e: e.membership == "join"),
    )
    await bob.sees("the room", lambda response: response.rooms.join.get(room_id))
    room = bob.client.rooms[room_id]
    check(room.name == "Parlour", f"Bob calls the room {room.name!r}")
    check(room.topic == "A whole conversation", f"Bob reads the topic {room.topic!r}")
    check(
        set(room.users) == {alice.client.user_id, bob.client.user_id},
        f"Bob sees the members {sorted(room.users)}",
    )
    return room_id


async def talk(alice, bob, room_id):
    """Messages go both ways, with typing and a receipt."""
    seen = bob.waits_for("Alice's message", in_timeline(room_id, RoomMessageText, alice.client.user_id))
    event_id = await alice.says(room_id, "Hello, Bob! ☕")
    message = await seen
    check(message.event_id == event_id, f"Bob saw {message.event_id}, not {event_id}")
    check(message.body == "Hello, Bob! ☕", f"Bob read {message.body!r}")

    bob_types = lambda event: event.users == [bob.client.user_id]
    typing = alice.waits_for("Bob typing", in_ephemeral(room_id, TypingNoticeEvent, bob_types))
    done(await bob.client.room_typing(room_id, True, timeout=30_000), "Bob types")
    await typing
    done(await bob.client.room_typing(room_id, False), "Bob stops typing")
    await alice.sees(
        "that Bob stopped typing", in_ephemeral(room_id, TypingNoticeEvent, lambda event: event.users == [])
    )

    is_bobs = lambda receipt: (receipt.user_id, receipt.event_id) == (bob.client.user_id, event_id)
    receipt = alice.waits_for(
        "Bob's receipt", in_ephemeral(room_id, ReceiptEvent, lambda event: any(map(is_bobs, event.receipts)))
    )
    done(await bob.client.room_read_markers(room_id, event_id, event_id), "Bob reads")
    await receipt

    seen = alice.waits_for("Bob's answer", in_timeline(room_id, RoomMessageText, bob.client.user_id))
    event_id = await bob.says(room_id, "Hello, Alice!")
    message = await seen
    check((message.event_id, message.body) == (event_id, "Hello, Alice!"), f"Alice read {message}")


async def show_picture(alice, bob, room_id):
    """Alice shows a picture, and Bob has every byte of it."""
    png = picture()
    uploaded, _ = await alice.client.upload(
        io.BytesIO(png), content_type="image/png", filename="colours.png", filesize=len(png)
    )
    uri = done(uploaded, "Alice uploads a picture").content_uri
    content = {
        "msgtype": "m.image",
        "body": "colours.png",
        "url": uri,
        "info": {"mimetype": "image/png", "size": len(png), "w": 64, "h": 64},
    }
    seen = bob.waits_for("the picture", in_timeline(room_id, RoomMessageImage, alice.client.user_id))
    done(await alice.client.room_send(room_id, "m.room.message", content), "Alice shows the picture")
    message = await seen
    check(message.url == uri, f"the picture is at {message.url}, not {uri}")
    file = done(await bob.client.download(message.url), "Bob downloads the picture")
    check(file.body == png, f"Bob has {len(file.body)} bytes that are not the {len(png)} of Alice")
    check(file.content_type == "image/png", f"the picture is {file.content_type}")
    check(file.filename == "colours.png", f"the picture is called {file.filename!r}")


async def take_back(alice, bob, room_id):
    """What Alice takes back, Bob cannot read any more."""
    seen = bob.waits_for("the slip", in_timeline(room_id, RoomMessageText, alice.client.user_id))
    event_id = await alice.says(room_id, "a slip of the tongue")
    await seen
    redaction = bob.waits_for(
        "the redaction",
        in_timeline(room_id, RedactionEvent, alice.client.user_id, lambda e: e.redacts == event_id),
    )
    done(await alice.client.room_redact(room_id, event_id, reason="a slip"), "Alice redacts")
    check((await redaction).reason == "a slip", "the redaction has lost its reason")
    event = done(await bob.client.room_get_event(room_id, event_id), "Bob looks it up").event
    check(isinstance(event, RedactedEvent), f"the redacted event is still {event}")
    check("slip of" not in str(event.source), f"the redacted event still says {event.source}")


async def look_back(bob, room_id):
    """The history has everything that was said, in order."""
    history = done(await bob.client.room_messages(room_id, start="", limit=100), "Bob reads the history")
    texts = [event.body for event in history.chunk if isinstance(event, RoomMessageText)]
    check(texts == ["Hello, Alice!", "Hello, Bob! ☕"], f"the history says {texts}")


async def refuse(alice, bob, room_id):
    """What is unknown or forbidden is refused with the specification's errors."""
    refused(await bob.client.join("#nowhere:localhost"), "M_NOT_FOUND", "joining an unknown alias")
    unknown = await bob.client.room_get_event(room_id, "$unknown")
    refused(unknown, "M_NOT_FOUND", "looking up an unknown event")
    kick = await bob.client.room_kick(room_id, alice.client.user_id)
    refused(kick, "M_FORBIDDEN", "kicking a user with more power")
    missing = await bob.client.download("mxc://localhost/unknown")
    refused(missing, "M_NOT_FOUND", "downloading an unknown file")

    stranger = AsyncClient(alice.client.homeserver, alice.name, config=ONE_TRY)
    refused(await stranger.login("wrong"), "M_FORBIDDEN", "logging in with a wrong password")
    stranger.restore_login(alice.client.user_id, "NIO", "not-a-token")
    refused(await stranger.whoami(), "M_UNKNOWN_TOKEN", "an unknown access token")
    await stranger.close()

    status, body = await bob.raw("GET", "/_matrix/client/v3/nonsense")
    check((status, body.get("errcode")) == (404, "M_UNRECOGNIZED"), f"an unknown path: {status} {body}")
    status, body = await bob.raw("DELETE", "/_matrix/client/v3/sync")
    check((status, body.get("errcode")) == (405, "M_UNRECOGNIZED"), f"an unknown method: {status} {body}")


async def part(alice, bob, room_id):
    """Bob leaves, Alice sees it, and he is out."""
    left = alice.waits_for(
        "that Bob left",
        in_timeline(room_id, RoomMemberEvent, bob.client.user_id, lambda e: e.membership == "leave"),
    )
    done(await bob.client.room_leave(room_id), "Bob leaves")
    await left
    await bob.sees("that he left", lambda response: response.rooms.leave.get(room_id))
    content = {"msgtype": "m.text", "body": "one more thing"}
    late = await bob.client.room_send(room_id, "m.room.message", content)
    refused(late, "M_FORBIDDEN", "speaking in a room after leaving it")
    refused(await bob.client.join(room_id), "M_FORBIDDEN", "joining without a new invitation")
    for person in (alice, bob):
        done(await person.client.logout(), f"{person.name} logs out")


async def conversation(url, token):
    alice, bob = Person(url, "alice"), Person(url, "bob")
    steps = [
        ("register", lambda room: register(alice, bob, token)),
        ("create, invite, join", lambda room: meet(alice, bob)),
        ("messages, typing, receipt", lambda room: talk(alice, bob, room)),
        ("picture", lambda room: show_picture(alice, bob, room)),
        ("redaction", lambda room: take_back(alice, bob, room)),
        ("history", lambda room: look_back(bob, room)),
        ("refusals", lambda room: refuse(alice, bob, room)),
        ("leave", lambda room: part(alice, bob, room)),
    ]
    room_id = None
    try:
        for name, step in steps:
            room_id = await step(room_id) or room_id
            print(f"ok: {name}")
    finally:
        await alice.client.close()
        await bob.client.close()
    print(f"{len(steps)} steps of a conversation passed")


def main():
    _, url, token = sys.argv
    # It warns of every answer that is an error, and some have to be.
    logging.getLogger("nio").setLevel(logging.ERROR)
    try:
        asyncio.run(conversation(url, token))
    except Failed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
