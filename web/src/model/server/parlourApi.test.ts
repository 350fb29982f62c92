import { expect, test } from "vitest";
import type { Api } from "./api.ts";
import { expiresAt, type InviteLink, isUnusable, ParlourApi, usesLeft } from "./parlourApi.ts";

const link: InviteLink = { token: "t", room_id: "!r:x", creator: "@a:x", created_at: 0, uses: 2 };

test("a link without a limit has no number of uses left", () => {
  expect(usesLeft(link)).toBe(null);
  expect(usesLeft({ ...link, max_uses: 5 })).toBe(3);
  expect(usesLeft({ ...link, max_uses: 1 })).toBe(0);
});

test("a link is unusable when it is used up or expired", () => {
  expect(isUnusable(link, 1000)).toBe(false);
  expect(isUnusable({ ...link, max_uses: 2 }, 1000)).toBe(true);
  expect(isUnusable({ ...link, expires_at: 1000 }, 1000)).toBe(true);
  expect(isUnusable({ ...link, expires_at: 1001, max_uses: null }, 1000)).toBe(false);
});

test("an expiry is relative to now, or a date", () => {
  expect(expiresAt("never", "", 5)).toBe(undefined);
  expect(expiresAt("hour", "", 5)).toBe(3_600_005);
  expect(expiresAt("week", "", 0)).toBe(604_800_000);
  expect(expiresAt("custom", "1970-06-02T03:04", 0)).toBe(new Date("1970-06-02T03:04").getTime());
});

test("a past or missing expiry is refused", () => {
  expect(() => expiresAt("custom", "2001-01-01T00:00")).toThrow("in the past");
  expect(() => expiresAt("custom", "")).toThrow("Choose a date");
});

test("ids are encoded in paths", async () => {
  const asked: unknown[] = [];
  const api = { post: async (...args: unknown[]) => asked.push(args) } as unknown as Api;
  await new ParlourApi(api).inviteUntil("!r/1:x", "@b:x", 9);
  expect(asked).toEqual([["/_parlour/client/v1/rooms/!r%2F1%3Ax/invite", { user_id: "@b:x", expires_at: 9 }]]);
});
