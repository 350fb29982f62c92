"""A user with a Matrix client: requests of the client-server API, and the events that its syncs have returned."""

import asyncio
import itertools
import json
from urllib.parse import quote

import aiohttp

# How long anything may take; servers that answer need a fraction of it, even on a busy machine.
PATIENCE_SECONDS = 60
LONG_POLL_MILLISECONDS = 10_000
FILTER = json.dumps({"room": {"timeline": {"limit": 100}}})


class Refused(Exception):
    """A server answered with an error."""

    def __init__(self, request, status, body):
        self.status = status
        self.errcode = body.get("errcode") if isinstance(body, dict) else None
        super().__init__(f"{request}: {status} {json.dumps(body)[:400]}")


class NotSeen(Exception):
    """Something that was waited for did not come."""


def path(*segments):
    """Returns a path of segments, each escaped."""
    return "/_matrix/client/v3/" + "/".join(quote(segment, safe="") for segment in segments)


class Person:
    """An account with one device, at one server."""

    def __init__(self, server):
        self.server = server
        self.id = None
        self.device = None
        self.password = None
        self._token = None
        self._transactions = itertools.count(1)
        self._since = None
        self._heard = []

    def __str__(self):
        return f"{self.id} ({self.server})"

    def take_account(self, account, password):
        """Uses the account and the device that a registration or a login answered with."""
        self.id = account["user_id"]
        self.device = account["device_id"]
        self.password = password
        self._token = account["access_token"]

    # Requests

    async def ask(self, method, url_path, body=None, query=None):
        """Returns the JSON that the server answers with, or raises `Refused`."""
        answer = await self._request(method, url_path, query, json=body)
        return json.loads(answer[0])

    async def download(self, url_path, query=None):
        """Returns the bytes of an answer and its headers."""
        return await self._request("GET", url_path, query)

    async def upload(self, data, content_type, filename):
        """Stores a file and returns its `mxc:` address."""
        kind = {"Content-Type": content_type}
        url_path = "/_matrix/media/v3/upload"
        answer = await self._request("POST", url_path, {"filename": filename}, data=data, headers=kind)
        return json.loads(answer[0])["content_uri"]

    async def _request(self, method, url_path, query, headers=None, **body):
        authorization = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        limit = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        # A connection each: the servers may have been stopped meanwhile.
        async with aiohttp.ClientSession(timeout=limit) as http:
            request = http.request(
                method,
                self.server.url + url_path,
                params=query,
                headers=authorization | (headers or {}),
                **{key: value for key, value in body.items() if value is not None},
            )
            try:
                async with request as answer:
                    data = await answer.read()
            except TimeoutError:
                raise NotSeen(f"{self}: no answer to {method} {url_path}") from None
        if answer.status >= 300:
            raise Refused(f"{self}: {method} {url_path}", answer.status, _json_or_text(data))
        return data, answer.headers

    # Accounts

    async def log_in(self, device_name):
        """Returns the same person with another device."""
        login = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.id},
            "password": self.password,
            "initial_device_display_name": device_name,
        }
        other = Person(self.server)
        other.take_account(await other.ask("POST", path("login"), login), self.password)
        return other

    async def with_password(self, method, url_path, body):
        """Makes a request for which the server wants the password again."""
        try:
            return await self.ask(method, url_path, body)
        except Refused as refused:
            if refused.status != 401:
                raise
        user = {"type": "m.id.user", "user": self.id}
        proof = {"type": "m.login.password", "identifier": user, "password": self.password}
        return await self.ask(method, url_path, body | {"auth": proof})

    # Rooms

    async def creates(self, version, **what):
        """Makes a room and returns its id."""
        body = what if version is None else what | {"room_version": version}
        return (await self.ask("POST", path("createRoom"), body))["room_id"]

    async def joins(self, room, *via):
        """Joins a room by its id, through servers, or by its alias."""
        query = [("via", server.name) for server in via]
        return (await self.ask("POST", path("join", room), {}, query))["room_id"]

    async def knocks(self, room, reason, *via):
        query = [("via", server.name) for server in via]
        return (await self.ask("POST", path("knock", room), {"reason": reason}, query))["room_id"]

    async def leaves(self, room):
        await self.ask("POST", path("rooms", room, "leave"), {})

    async def does(self, action, room, other, **more):
        """Does something to another: invite, kick, ban or unban."""
        await self.ask("POST", path("rooms", room, action), {"user_id": other.id} | more)

    def new_transaction(self):
        """Returns an id with which one event can be sent, however often it is tried."""
        return f"{self.device}-{next(self._transactions)}"

    async def sends(self, room, kind, content, transaction=None):
        """Sends an event and returns its id."""
        transaction = transaction or self.new_transaction()
        sent = await self.ask("PUT", path("rooms", room, "send", kind, transaction), content)
        return sent["event_id"]

    async def says(self, room, text, **more):
        """Sends a text and returns the id of the event."""
        return await self.sends(room, "m.room.message", {"msgtype": "m.text", "body": text} | more)

    async def redacts(self, room, event, reason):
        transaction = self.new_transaction()
        sent = await self.ask("PUT", path("rooms", room, "redact", event, transaction), {"reason": reason})
        return sent["event_id"]

    async def sets(self, room, kind, content, key=""):
        """Sets an entry of a room's state and returns the id of the event."""
        return (await self.ask("PUT", path("rooms", room, "state", kind, key), content))["event_id"]

    async def state_event(self, room, kind, key=""):
        """Returns the content of an entry of a room's state."""
        return await self.ask("GET", path("rooms", room, "state", kind, key))

    async def state(self, room):
        """Returns the room's state: the event id for each type and key."""
        events = await self.ask("GET", path("rooms", room, "state"))
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    async def event(self, room, event):
        return await self.ask("GET", path("rooms", room, "event", event))

    async def history(self, room, page=100):
        """Yields the room's events from the newest to the oldest, page by page."""
        start = None
        while True:
            query = {"dir": "b", "limit": str(page)} | ({"from": start} if start else {})
            answer = await self.ask("GET", path("rooms", room, "messages"), query=query)
            for event in answer["chunk"]:
                yield event
            start = answer.get("end")
            if start is None:
                return

    # What happens

    def forgets(self):
        """From now on `sees` finds only what syncs return after this call."""
        self._heard.clear()

    async def syncs(self):
        """Waits for news once, and returns them."""
        query = {"filter": FILTER, "set_presence": "offline"}
        if self._since:
            query |= {"since": self._since, "timeout": str(LONG_POLL_MILLISECONDS)}
        answer = await self.ask("GET", path("sync"), query=query)
        self._since = answer["next_batch"]
        self._heard.append(answer)
        return answer

    def has_heard(self, find):
        """Returns what `find` finds in the answers heard so far, or nothing."""
        return next(filter(None, map(find, self._heard)), None)

    def messages_heard(self, kind):
        """Returns the contents of all messages of a kind that were sent to this device."""
        messages = sum((answer.get("to_device", {}).get("events", []) for answer in self._heard), [])
        return [message["content"] for message in messages if message["type"] == kind]

    async def sees(self, what, find, patience=PATIENCE_SECONDS):
        """Returns what `find` finds in the answer of a sync: one heard already, or one to come."""
        if found := self.has_heard(find):
            return found
        try:
            async with asyncio.timeout(patience):
                while True:
                    if found := find(await self.syncs()):
                        return found
        except TimeoutError:
            raise NotSeen(f"{self} did not see {what} in {patience} s") from None


def _json_or_text(data):
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
