import { expect, test } from "vitest";
import type { Content } from "../server/events.ts";
import { event } from "../testHelpers.ts";
import { stateEventText } from "./stateEventText.ts";
import { TimelineEvent } from "./timeline.ts";

const NAMES: Record<string, string> = { "@a:x": "Ann", "@b:x": "Bob" };

function textOf(type: string, sender: string, key: string, content: Content, before?: Content): string | null {
  const raw = event("$1", { type, sender, state_key: key, content, ...(before === undefined ? {} : { unsigned: { prev_content: before } }) });
  return stateEventText(new TimelineEvent(raw), (userId) => NAMES[userId] ?? userId);
}

test.each<[string, string, Content, Content | undefined, string | null]>([
  ["@b:x", "@b:x", { membership: "join", displayname: "Bob" }, undefined, "Bob joined"],
  ["@a:x", "@b:x", { membership: "invite" }, undefined, "Ann invited Bob"],
  ["@b:x", "@b:x", { membership: "leave" }, { membership: "join" }, "Bob left"],
  ["@b:x", "@b:x", { membership: "leave" }, { membership: "invite" }, "Bob declined the invitation"],
  ["@a:x", "@b:x", { membership: "leave" }, { membership: "invite" }, "Ann withdrew the invitation to Bob"],
  ["@a:x", "@b:x", { membership: "leave", reason: "loud" }, { membership: "join" }, "Ann removed Bob: loud"],
  ["@a:x", "@b:x", { membership: "ban" }, { membership: "join" }, "Ann banned Bob"],
  ["@a:x", "@b:x", { membership: "leave" }, { membership: "ban" }, "Ann unbanned Bob"],
  ["@b:x", "@b:x", { membership: "join", displayname: "Robert" }, { membership: "join", displayname: "Bob" }, "Bob is now called Robert"],
  ["@b:x", "@b:x", { membership: "join", avatar_url: "mxc://x/1" }, { membership: "join" }, "Bob changed their picture"],
  ["@b:x", "@b:x", { membership: "join" }, { membership: "join" }, null],
])("of a member by %s about %s: %j", (sender, key, content, before, said) => {
  expect(textOf("m.room.member", sender, key, content, before)).toBe(said);
});

test.each<[string, Content, Content | undefined, string | null]>([
  ["m.room.create", {}, undefined, "Ann created this room"],
  ["m.room.name", { name: "Den" }, undefined, "Ann changed the name to “Den”"],
  ["m.room.topic", { topic: "" }, undefined, "Ann removed the topic"],
  ["m.room.encryption", { algorithm: "m.megolm.v1.aes-sha2" }, undefined, "Ann turned on encryption"],
  ["m.room.power_levels", { users: { "@b:x": 50 } }, { users: {} }, "Ann made Bob a moderator"],
  ["m.room.power_levels", { users: { "@b:x": 0 } }, { users: { "@b:x": 100 } }, "Ann made Bob a member"],
  ["m.room.join_rules", { join_rule: "public" }, undefined, "Ann opened the room to everyone"],
  ["org.example.other", {}, undefined, null],
])("of %s: %j", (type, content, before, said) => {
  expect(textOf(type, "@a:x", "", content, before)).toBe(said);
});
