"""What end-to-end encryption needs: lists of devices, keys, and messages to devices."""

import base64
import itertools
import json
import secrets

import vodozemac
from canonicaljson import encode_canonical_json

import looking
from client import path
from harness import becomes, once, same

OLM = "m.olm.v1.curve25519-aes-sha2"
MEGOLM = "m.megolm.v1.aes-sha2"
_transactions = itertools.count(1)


class Device:
    """The keys of a user's device, at the server, and the sessions that begin with them."""

    def __init__(self, person):
        self.person = person
        self.account = vodozemac.Account()

    @property
    def curve_key(self):
        return self.account.curve25519_key.to_base64()

    async def publish(self, one_time_keys):
        """Uploads the keys of the device and some to begin sessions with."""
        self.account.generate_one_time_keys(one_time_keys)
        keys = {
            f"signed_curve25519:{name}": self._signed({"key": key.to_base64()})
            for name, key in self.account.one_time_keys.items()
        }
        self.account.mark_keys_as_published()
        device_keys = {
            "user_id": self.person.id,
            "device_id": self.person.device,
            "algorithms": [OLM, MEGOLM],
            "keys": {
                f"curve25519:{self.person.device}": self.curve_key,
                f"ed25519:{self.person.device}": self.account.ed25519_key.to_base64(),
            },
        }
        body = {"device_keys": self._signed(device_keys), "one_time_keys": keys}
        await self.person.ask("POST", path("keys", "upload"), body)

    def _signed(self, content):
        signature = self.account.sign(encode_canonical_json(content)).to_base64()
        return content | {"signatures": {self.person.id: {f"ed25519:{self.person.device}": signature}}}

    async def begin_session(self, other):
        """Claims a key of another's device, checks its signature and begins a session with it."""
        wanted = {other.id: {other.device: "signed_curve25519"}}
        claimed = await self.person.ask("POST", path("keys", "claim"), {"one_time_keys": wanted})
        same(claimed.get("failures", {}), {}, "the failures of the claim")
        (key,) = claimed["one_time_keys"][other.id][other.device].values()
        device = await queried_device(self.person, other, other.device)
        name = f"ed25519:{other.device}"
        signature = key.pop("signatures")[other.id][name]
        vodozemac.Ed25519PublicKey.from_base64(device["keys"][name]).verify_signature(
            encode_canonical_json(key), vodozemac.Ed25519Signature.from_base64(signature)
        )
        identity = vodozemac.Curve25519PublicKey.from_base64(device["keys"][f"curve25519:{other.device}"])
        one_time = vodozemac.Curve25519PublicKey.from_base64(key["key"])
        return self.account.create_outbound_session(identity, one_time), identity.to_base64()


async def queried_device(person, other, device):
    """Returns the keys of another's device, or nothing."""
    found = await person.ask("POST", path("keys", "query"), {"device_keys": {other.id: []}})
    return found["device_keys"].get(other.id, {}).get(device)


async def send_to_device(person, kind, other, device, *contents):
    """Sends messages to a device, or to all with `*`."""
    for content in contents:
        url = path("sendToDevice", kind, f"interop-{next(_transactions)}")
        await person.ask("PUT", url, {"messages": {other.id: {device: content}}})


@once
async def device_lists(scene):
    """Bob is notified of each change of Alice's devices, and finds what has changed."""
    alice, bob, _ = await scene.shared_room()
    # A server requests the devices of remote users only if they share a room with its users.
    await Device(alice).publish(0)
    await bob.sees("Alice's first device", looking.changed_devices(alice))
    await becomes("the keys of Alice's first device", lambda: queried_device(bob, alice, alice.device))

    bob.forgets()
    phone = await alice.log_in("Alice's phone")
    await Device(phone).publish(0)
    await bob.sees("Alice's second device", looking.changed_devices(alice))

    async def named_phone():
        keys = await queried_device(bob, alice, phone.device)
        return keys and keys.get("unsigned", {}).get("device_display_name")

    # A server may keep the names of devices to itself.
    await becomes("the keys of Alice's phone", lambda: queried_device(bob, alice, phone.device))
    same(await named_phone() in (None, "Alice's phone"), True, "whether the phone has its name or none")

    bob.forgets()
    await phone.ask("POST", path("logout"), {})
    await bob.sees("that the second device is gone", looking.changed_devices(alice))

    async def without_phone():
        return await queried_device(bob, alice, phone.device) is None

    await becomes("that Alice has no phone", without_phone)


@once
async def device_lists_of_newcomers(scene):
    """A new member gets the device lists of the other members, and they get the new member's."""
    alice, bob = await scene.pair()
    for person in (alice, bob):
        await Device(person).publish(0)
        await person.syncs()
    room = await scene.creates(alice, preset="public_chat")
    await bob.joins(room, scene.near)
    for person, other in ((alice, bob), (bob, alice)):
        await person.sees(f"the devices of {other}", looking.changed_devices(other))
        await becomes(
            f"the keys of {other}", lambda person=person, other=other: queried_device(person, other, other.device)
        )


@once
async def cross_signing(scene):
    """Bob gets the keys with which Alice signs her devices, and is notified when they change."""
    alice, bob, _ = await scene.shared_room()
    await Device(alice).publish(0)
    await bob.sees("Alice's device", looking.changed_devices(alice))
    for _ in range(2):
        bob.forgets()
        master = vodozemac.Account()
        public = master.ed25519_key.to_base64()
        key = {"user_id": alice.id, "usage": ["master"], "keys": {f"ed25519:{public}": public}}
        self_signing = await _signed_by(master, alice, "self_signing")
        body = {"master_key": key, "self_signing_key": self_signing}
        await alice.with_password("POST", path("keys", "device_signing", "upload"), body)
        await bob.sees("that Alice's keys have changed", looking.changed_devices(alice))

        async def has_key():
            found = await bob.ask("POST", path("keys", "query"), {"device_keys": {alice.id: []}})
            master_keys = found.get("master_keys", {}).get(alice.id, {}).get("keys", {})
            own_keys = found.get("self_signing_keys", {}).get(alice.id, {}).get("keys", {})
            return public in master_keys.values() and own_keys == self_signing["keys"]

        await becomes("Alice's keys at Bob's", has_key)


async def _signed_by(master, person, usage):
    public = vodozemac.Account().ed25519_key.to_base64()
    key = {"user_id": person.id, "usage": [usage], "keys": {f"ed25519:{public}": public}}
    signature = master.sign(encode_canonical_json(key)).to_base64()
    return key | {"signatures": {person.id: {f"ed25519:{master.ed25519_key.to_base64()}": signature}}}


@once
async def to_device(scene):
    """To-device messages arrive once and in order, and messages to all devices arrive at all."""
    alice, bob, _ = await scene.shared_room()
    tablet = await bob.log_in("Bob's tablet")
    for person in (bob, tablet):
        await person.syncs()
    contents = [{"number": number, "pad": secrets.token_hex(100)} for number in range(120)]
    await send_to_device(alice, "org.example.test", bob, bob.device, *contents)
    await send_to_device(alice, "org.example.last", bob, "*", {"text": "To all"})
    for person in (bob, tablet):
        last = looking.to_device(alice, lambda m: m["type"] == "org.example.last")
        await person.sees("the message to all devices", last)
    same([m["number"] for m in bob.messages_heard("org.example.test")], list(range(120)), "what Bob's device got")
    same(tablet.messages_heard("org.example.test"), [], "what the tablet got of Bob's")


@once
async def encrypted_conversation(scene):
    """Alice claims a one-time key of Bob's and sends him the room key. He decrypts, and replies the same way."""
    alice, bob, room = await scene.shared_room()
    await alice.sets(room, "m.room.encryption", {"algorithm": MEGOLM})
    devices = {person: Device(person) for person in (alice, bob)}
    for person, other in ((alice, bob), (bob, alice)):
        await devices[person].publish(5)
        await other.sees("the other's device", looking.changed_devices(person))
    for person, other in ((alice, bob), (bob, alice)):
        group = vodozemac.GroupSession()
        await _share_key(devices[person], other, room, group)
        reader = await _take_key(devices[other], person, room)
        for text in ("For your eyes only", "And this"):
            content = _encrypted(devices[person], group, room, text)
            sent = await person.sends(room, "m.room.encrypted", content)
            event = await other.sees("the encrypted message", looking.event_id(room, sent))
            message = vodozemac.MegolmMessage.from_base64(event["content"]["ciphertext"])
            read = json.loads(reader.decrypt(message).plaintext)
            same(read["content"]["body"], text, f"what {other} reads")


async def _share_key(device, other, room, group):
    """Sends the key of a group session to another's device."""
    session, other_key = await device.begin_session(other)
    plain = {
        "type": "m.room_key",
        "sender": device.person.id,
        "recipient": other.id,
        "content": {
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": group.session_id,
            "session_key": group.session_key.to_base64(),
        },
    }
    kind, ciphertext = session.encrypt(json.dumps(plain).encode()).to_parts()
    body = {"type": kind, "body": _base64(ciphertext)}
    content = {"algorithm": OLM, "sender_key": device.curve_key, "ciphertext": {other_key: body}}
    await send_to_device(device.person, "m.room.encrypted", other, other.device, content)


async def _take_key(device, sender, room):
    """Waits for the key of a group session and returns what decrypts with it."""
    received = await device.person.sees("the key", looking.to_device(sender, lambda m: m["type"] == "m.room.encrypted"))
    content = received["content"]
    message = vodozemac.PreKeyMessage.from_base64(content["ciphertext"][device.curve_key]["body"])
    sender_key = vodozemac.Curve25519PublicKey.from_base64(content["sender_key"])
    _, plain = device.account.create_inbound_session(sender_key, message)
    key = json.loads(plain)["content"]
    same(key["room_id"], room, "the room of the key")
    return vodozemac.InboundGroupSession(vodozemac.SessionKey(key["session_key"]))


def _encrypted(device, group, room, text):
    content = {"msgtype": "m.text", "body": text}
    plain = {"type": "m.room.message", "room_id": room, "content": content}
    return {
        "algorithm": MEGOLM,
        "sender_key": device.curve_key,
        "device_id": device.person.device,
        "session_id": group.session_id,
        "ciphertext": group.encrypt(json.dumps(plain).encode()).to_base64(),
    }


def _base64(data):
    return base64.b64encode(data).decode().rstrip("=")
