import { expect, test } from "vitest";
import type { Api } from "../server/api.ts";
import type { RawEvent } from "../server/events.ts";
import { ParlourApi } from "../server/parlourApi.ts";
import { AccountData } from "../settings/accountData.ts";
import { NotificationTracker } from "./notificationTracker.ts";
import { RoomDirectory } from "./roomDirectory.ts";
import { RoomEntry } from "./roomEntry.ts";
import { filterRooms } from "./roomFilter.ts";
import { roomPreview, typingText } from "./roomPreview.ts";
import { RoomStore } from "./roomStore.ts";

const ME = "@me:x";
let next = 0;

function message(sender: string, body: string, content = {}): RawEvent {
  next += 1;
  return { event_id: `$${next}`, type: "m.room.message", sender, origin_server_ts: next, content: { msgtype: "m.text", body, ...content } };
}

function nameEvent(name: string): RawEvent {
  return { event_id: `$n${name}`, type: "m.room.name", state_key: "", sender: ME, origin_server_ts: 0, content: { name } };
}

function addRoom(rooms: RoomStore, id: string, name: string, events: RawEvent[], unread = 0): void {
  const room = { state: { events: [nameEvent(name)] }, timeline: { events }, unread_notifications: { notification_count: unread } };
  rooms.update({ next_batch: "n", rooms: { join: { [id]: room } } });
}

test("the preview shows the sender and a summary", () => {
  const rooms = new RoomStore({} as Api, ME);
  addRoom(rooms, "!r", "Tea", [message("@ann:x", "Milk\n\nor lemon?")]);
  const room = rooms.get("!r")!;
  expect(roomPreview(room, ME)).toBe("ann: Milk or lemon?");
  addRoom(rooms, "!r", "Tea", [message(ME, "cat.png", { msgtype: "m.image" })]);
  expect(roomPreview(room, ME)).toBe("You: Photo");
  rooms.setDirectChats({ "@ann:x": ["!r"] });
  addRoom(rooms, "!r", "Tea", [message("@ann:x", "> <@me:x> old\n> text\n\nIndeed")]);
  expect(roomPreview(room, ME)).toBe("Indeed");
});

test("a single typing user is named, several are counted", () => {
  const rooms = new RoomStore({} as Api, ME);
  addRoom(rooms, "!r", "Tea", []);
  const room = rooms.get("!r")!;
  expect(typingText(room)).toBe(null);
  room.typing.value = ["@ann:x"];
  expect(typingText(room)).toBe("ann is typing…");
  room.typing.value = ["@ann:x", "@bob:x"];
  expect(typingText(room)).toBe("2 people are typing…");
});

test("the list is filtered by kind and by words, ignoring case and accents", () => {
  const rooms = new RoomStore({} as Api, ME);
  addRoom(rooms, "!a", "Über uns", []);
  addRoom(rooms, "!b", "Tea", [message("@ann:x", "hi")], 2);
  rooms.setDirectChats({ "@ann:x": ["!b"] });
  const ids = (filter: Parameters<typeof filterRooms>[1], search: string) => filterRooms(rooms.joined.value, filter, search).map(({ id }) => id);
  expect(ids("all", "uber")).toEqual(["!a"]);
  expect(ids("unread", "")).toEqual(["!b"]);
  expect(ids("direct", "")).toEqual(["!b"]);
  expect(ids("rooms", "")).toEqual(["!a"]);
  expect(ids("all", "tea nothing")).toEqual([]);
});

test("rooms whose count went up are notified, after the first call", () => {
  const rooms = new RoomStore({} as Api, ME);
  const tracker = new NotificationTracker(ME);
  addRoom(rooms, "!a", "A", [message("@ann:x", "old")], 3);
  expect(tracker.takeNewNotifications(rooms.joined.value)).toEqual([]);
  addRoom(rooms, "!a", "A", [message("@ann:x", "new")], 4);
  expect(tracker.takeNewNotifications(rooms.joined.value).map(({ room, event }) => [room.id, event.content["body"]])).toEqual([["!a", "new"]]);
  addRoom(rooms, "!a", "A", [], 0);
  expect(tracker.takeNewNotifications(rooms.joined.value)).toEqual([]);
});

function createRoomEntry(rooms: RoomStore) {
  const requests: string[] = [];
  const api = {
    post: async (path: string) => {
      requests.push(path);
      queueMicrotask(() => addRoom(rooms, "!new", "", []));
      return { room_id: "!new" };
    },
    put: async () => ({}),
  } as unknown as Api;
  const account = new AccountData(api, ME);
  return { requests, account, roomEntry: new RoomEntry(api, rooms, account, new RoomDirectory(api), new ParlourApi(api)) };
}

test("an existing direct chat or invitation is reused, otherwise one is created", async () => {
  const rooms = new RoomStore({} as Api, ME);
  const { requests, account, roomEntry } = createRoomEntry(rooms);
  addRoom(rooms, "!old", "", []);
  account.directChats.value = { "@ann:x": ["!gone", "!old"] };
  expect(await roomEntry.directChatWith("@ann:x")).toBe("!old");
  expect(requests).toEqual([]);

  expect(await roomEntry.directChatWith("@bob:x")).toBe("!new");
  expect(requests).toEqual(["/_matrix/client/v3/createRoom"]);
  expect(account.directChats.value["@bob:x"]).toEqual(["!new"]);

  const own = { type: "m.room.member", state_key: ME, sender: "@cy:x", content: { membership: "invite", is_direct: true } };
  rooms.update({ next_batch: "n", rooms: { invite: { "!inv": { invite_state: { events: [own] } } } } });
  expect(roomEntry.existingDirectChat("@cy:x")?.id).toBe("!inv");
});
