"""What to look for in the answers of `/sync`: each function returns one that finds it in an answer, or nothing."""


def _joined(answer, room):
    return answer.get("rooms", {}).get("join", {}).get(room, {})


def event(room, is_it):
    """Finds an event in the timeline of a joined room."""

    def find(answer):
        events = _joined(answer, room).get("timeline", {}).get("events", [])
        return next(filter(is_it, events), None)

    return find


def event_id(room, wanted):
    """Finds the event with an id in the timeline of a joined room."""
    return event(room, lambda found: found["event_id"] == wanted)


def state(room, kind, is_it, key=""):
    """Finds an entry of a joined room's state whose content is the wanted one."""

    def is_entry(found):
        return found["type"] == kind and found.get("state_key") == key and is_it(found["content"])

    def find(answer):
        joined = _joined(answer, room)
        states = [joined.get(part, {}).get("events", []) for part in ("timeline", "state")]
        return next(filter(is_entry, sum(states, [])), None)

    return find


def member(room, person, membership):
    """Finds that a user has a membership of a joined room."""
    return state(room, "m.room.member", lambda content: content.get("membership") == membership, person.id)


def ephemeral(room, kind, is_it):
    """Finds an ephemeral event of a joined room by its content."""

    def find(answer):
        events = _joined(answer, room).get("ephemeral", {}).get("events", [])
        return next((e for e in events if e["type"] == kind and is_it(e["content"])), None)

    return find


def receipt(room, event, person, kind="m.read"):
    """Finds a receipt and returns what is said about it."""

    def find(answer):
        events = _joined(answer, room).get("ephemeral", {}).get("events", [])
        receipts = [e["content"] for e in events if e["type"] == "m.receipt"]
        found = [content.get(event, {}).get(kind, {}).get(person.id) for content in receipts]
        return next(filter(None, found), None)

    return find


def invitation(room):
    """Finds an invitation and returns its stripped state."""
    return lambda answer: _stripped(answer, "invite", "invite_state", room)


def own_knock(room):
    """Finds that one's own knock is at a room and returns the stripped state."""
    return lambda answer: _stripped(answer, "knock", "knock_state", room)


def _stripped(answer, section, part, room):
    found = answer.get("rooms", {}).get(section, {}).get(room)
    return found and found[part]["events"]


def left(room):
    """Finds that one is no longer in a room, nor invited to it, nor at its door."""
    return lambda answer: answer.get("rooms", {}).get("leave", {}).get(room) is not None


def presence(person, is_it):
    """Finds a user's presence by its content."""

    def find(answer):
        events = answer.get("presence", {}).get("events", [])
        return next((e for e in events if e["sender"] == person.id and is_it(e["content"])), None)

    return find


def to_device(sender, is_it=lambda message: True):
    """Finds a message to this device."""

    def find(answer):
        messages = answer.get("to_device", {}).get("events", [])
        return next((m for m in messages if m["sender"] == sender.id and is_it(m)), None)

    return find


def changed_devices(person):
    """Finds that a user's devices or keys have changed."""
    return lambda answer: person.id in answer.get("device_lists", {}).get("changed", [])
