import { expect, test } from "vitest";
import type { Api } from "../server/api.ts";
import { isRuleOn, keywords, PushRules, roomNotificationLevel } from "./pushRules.ts";

const room = "!r:x";
const rule = (rule_id: string, actions: unknown[], more = {}) => ({ rule_id, actions, enabled: true, default: false, ...more });
const rules = (global: Record<string, unknown[]>) => ({ global });

test("a room without its own rules follows the account", () => {
  expect(roomNotificationLevel({}, room)).toBe("default");
  expect(roomNotificationLevel(rules({ room: [rule("!other:x", ["notify"])] }), room)).toBe("default");
});

test("a room can notify of everything, mentions, or nothing", () => {
  expect(roomNotificationLevel(rules({ room: [rule(room, ["notify"])] }), room)).toBe("all");
  expect(roomNotificationLevel(rules({ room: [rule(room, ["dont_notify"])] }), room)).toBe("mentions");
  expect(roomNotificationLevel(rules({ override: [rule(room, [])], room: [rule(room, ["notify"])] }), room)).toBe("mute");
});

test("a disabled rule does not count", () => {
  expect(roomNotificationLevel(rules({ override: [rule(room, [], { enabled: false })] }), room)).toBe("default");
  expect(isRuleOn(rules({ underride: [rule(".m.rule.message", ["notify"], { enabled: false })] }), "underride", ".m.rule.message")).toBe(false);
});

test("a rule without actions is off, a missing one is unknown", () => {
  expect(isRuleOn(rules({ underride: [rule(".m.rule.message", [])] }), "underride", ".m.rule.message")).toBe(false);
  expect(isRuleOn(rules({ underride: [] }), "underride", ".m.rule.message")).toBe(undefined);
});

test("keywords are the patterns that the user added", () => {
  const content = [rule(".m.rule.contains_user_name", ["notify"], { pattern: "ann" }), rule("tea", ["notify"], { pattern: "tea" })];
  expect(keywords(rules({ content }))).toEqual(["tea"]);
});

test("muting and unmuting a room adds and removes one rule", async () => {
  const requests: string[] = [];
  const recorder = (method: string) => async (path: string) => void requests.push(`${method} ${decodeURIComponent(path)}`);
  const push = new PushRules({ put: recorder("PUT"), delete: recorder("DELETE") } as unknown as Api);
  await push.setLevel(room, "mute", {});
  await push.setLevel(room, "default", rules({ override: [rule(room, [])] }));
  expect(requests).toEqual([`PUT /_matrix/client/v3/pushrules/global/override/${room}`, `DELETE /_matrix/client/v3/pushrules/global/override/${room}`]);
});
