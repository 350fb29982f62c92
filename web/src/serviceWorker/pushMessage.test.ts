import { expect, test } from "vitest";
import type { Content } from "../model/server/events.ts";
import { parsePushMessage, pushNotification, readAcknowledgement } from "./pushMessage.ts";

function messageWith(change: Content): Content {
  return {
    notification_detail: "text",
    event_id: "$e",
    room_id: "!r:x",
    type: "m.room.message",
    sender: "@ann:x",
    sender_display_name: "Ann",
    room_name: "Garden club",
    content: { msgtype: "m.text", body: "The beans are up" },
    counts: { unread: 1 },
    tweaks: { sound: "default" },
    ...change,
  };
}

function textOf(change: Content): [title: string, body: string] {
  const { title, body } = pushNotification(messageWith(change));
  return [title, body];
}

test("a message is shown with its sender, room and text", () => {
  expect(textOf({})).toEqual(["Garden club", "Ann: The beans are up"]);
  expect(textOf({ room_name: undefined, room_alias: "#garden:x" })).toEqual(["#garden:x", "Ann: The beans are up"]);
  expect(textOf({ sender_display_name: undefined })).toEqual(["Garden club", "ann: The beans are up"]);
  expect(textOf({ content: { msgtype: "m.emote", body: "waves" } })).toEqual(["Garden club", "Ann waves"]);
});

test("a message in a room without a name is shown as a direct message", () => {
  expect(textOf({ room_name: undefined })).toEqual(["Ann", "The beans are up"]);
  expect(textOf({ room_name: undefined, notification_detail: "sender" })).toEqual(["Ann", "New message"]);
});

test("the setting for the sender hides the text", () => {
  expect(textOf({ notification_detail: "sender" })).toEqual(["Garden club", "New message from Ann"]);
});

test("without a known setting nothing about the message is shown", () => {
  for (const notification_detail of ["nothing", undefined, "everything"]) expect(textOf({ notification_detail })).toEqual(["New message", ""]);
});

test("a message with only ids is shown as a new message of its room", () => {
  const notification = pushNotification({ notification_detail: "nothing", event_id: "$e", room_id: "!r:x", prio: "high", counts: { unread: 3 } });
  expect(notification).toEqual({ title: "New message", body: "", tag: "!r:x", silent: false, route: { at: "room", id: "!r:x", event: "$e" } });
});

test("content without a text is described", () => {
  const described = (change: Content) => textOf(change)[1];
  expect(described({ type: "m.room.encrypted", content: { ciphertext: "x" } })).toBe("Ann: Encrypted message");
  expect(described({ content: { msgtype: "m.image", body: "dot.png" } })).toBe("Ann: Photo");
  expect(described({ content: { msgtype: "m.file", body: "plan.pdf" } })).toBe("Ann: File: plan.pdf");
  expect(described({ type: "m.call.invite", content: { call_id: "c" } })).toBe("Ann: Call");
  expect(described({ type: "org.example.unknown", content: {} })).toBe("New message from Ann");
  expect(described({ content: undefined })).toBe("New message from Ann");
});

test("a long text is cut, and an edit shows its new text", () => {
  const long = textOf({ content: { msgtype: "m.text", body: "word ".repeat(100) } })[1];
  expect(long.length).toBeLessThan(200);
  expect(long.endsWith("…")).toBe(true);
  const edited = { msgtype: "m.text", body: "* New", "m.new_content": { msgtype: "m.text", body: "New" } };
  expect(textOf({ content: edited })[1]).toBe("Ann: New");
});

test("an invitation names the inviter and the room", () => {
  const invitation = { type: "m.room.member", user_is_target: true, content: { membership: "invite" } };
  expect(textOf(invitation)).toEqual(["Garden club", "Ann invited you to this room"]);
  expect(textOf({ ...invitation, notification_detail: "sender" })).toEqual(["Garden club", "Ann invited you to this room"]);
  expect(textOf({ ...invitation, room_name: undefined })).toEqual(["Invitation", "Ann invited you to a conversation"]);
  expect(textOf({ ...invitation, content: undefined })).toEqual(["Garden club", "Ann invited you to this room"]);
  expect(textOf({ ...invitation, notification_detail: "nothing" })).toEqual(["New message", ""]);
});

test("the sound follows the push rules", () => {
  expect(pushNotification(messageWith({})).silent).toBe(false);
  expect(pushNotification(messageWith({ tweaks: {} })).silent).toBe(true);
});

test("a click on a notification without a room opens the page", () => {
  expect(pushNotification({})).toMatchObject({ title: "New message", tag: "parlour", route: { at: "home" } });
});

test("the first message to a pusher is passed on to the pages", () => {
  const message = { app_id: "org.parlour.page", ack_token: "t" };
  expect(readAcknowledgement(message)).toEqual({ type: "acknowledge", appId: "org.parlour.page", ackToken: "t" });
  expect(readAcknowledgement(messageWith({}))).toBe(null);
});

test("a push message that is not a JSON object is empty", () => {
  for (const text of [undefined, "", "{", "[1]", "null"]) expect(parsePushMessage(text)).toEqual({});
});
