import { expect, test } from "vitest";
import type { RawEvent } from "../server/events.ts";
import { apiAnswering, edit, event, reaction, redaction, reply } from "../testHelpers.ts";
import { Timeline, TimelineEvent } from "./timeline.ts";

const emptyApi = apiAnswering(() => ({ chunk: [] }));

function timelineWith(...events: RawEvent[]): Timeline {
  const timeline = new Timeline(emptyApi, "!r:x");
  timeline.update(events, false, undefined);
  return timeline;
}

function ids(timeline: Timeline): string[] {
  return timeline.events.map(({ id }) => id);
}

function echoOf(key: string): TimelineEvent {
  const echo = new TimelineEvent(event(`~${key}`), key);
  echo.sendState = "sending";
  return echo;
}

/** A server whose room has these events, the newest last. Tokens are positions among them. */
function serverWithHistory(all: RawEvent[], page: number) {
  return apiAnswering((url) => {
    const from = Number(url.searchParams.get("from"));
    const begin = Math.max(from - page, 0);
    return { chunk: all.slice(begin, from).reverse(), ...(begin > 0 ? { end: String(begin) } : {}) };
  });
}

test("an event that arrives twice is shown once", () => {
  const timeline = timelineWith(event("$1"), event("$2"));
  timeline.update([event("$2"), event("$3")], false, undefined);
  expect(ids(timeline)).toEqual(["$1", "$2", "$3"]);
});

test("history is added at the front, in order", async () => {
  const all = ["$1", "$2", "$3", "$4", "$5"].map((id) => event(id));
  const timeline = new Timeline(serverWithHistory(all, 2), "!r:x");
  timeline.update([all[4]!], true, "4");
  await timeline.loadBack();
  await timeline.loadBack();
  expect(ids(timeline)).toEqual(["$1", "$2", "$3", "$4", "$5"]);
  expect(timeline.canGoBack).toBe(false);
  const orders = timeline.events.map(({ order }) => order);
  expect(orders).toEqual([...orders].sort((a, b) => a - b));
});

test("the gap of a limited sync is filled before later updates are applied", async () => {
  const all = Array.from({ length: 10 }, (_, at) => event(`$${at}`));
  const timeline = new Timeline(serverWithHistory(all, 3), "!r:x");
  timeline.update(all.slice(0, 2), false, undefined);
  timeline.update(all.slice(8, 9), true, "8");
  timeline.update(all.slice(9), false, undefined);
  await expect.poll(() => ids(timeline)).toEqual(all.map(({ event_id }) => event_id));
});

test("after too large a gap older events are dropped", async () => {
  const all = Array.from({ length: 100 }, (_, at) => event(`$${at}`));
  const timeline = new Timeline(serverWithHistory(all, 3), "!r:x");
  timeline.update(all.slice(0, 2), false, undefined);
  timeline.update(all.slice(99), true, "99");
  await expect.poll(() => timeline.resets.value).toBe(1);
  expect(timeline.get("$0")).toBeUndefined();
  expect(timeline.last?.id).toBe("$99");
  while (timeline.canGoBack) await timeline.loadBack();
  expect(ids(timeline)).toEqual(all.map(({ event_id }) => event_id));
});

test("history requested before a reset is not mixed with new events", async () => {
  let answer = (_: unknown): void => {};
  const slow = apiAnswering(async () => new Promise((resolve) => (answer = resolve)));
  const timeline = new Timeline(slow, "!r:x");
  timeline.update([event("$5")], true, "old");
  const loading = timeline.loadBack();
  const old = answer;
  timeline.update([event("$90")], true, undefined);
  await expect.poll(() => timeline.resets.value).toBe(1);
  old({ chunk: [event("$4")] });
  await loading;
  expect(ids(timeline)).toEqual(["$90"]);
});

test("an echo becomes the event when the response arrives first", () => {
  const timeline = timelineWith(event("$1"));
  const echo = echoOf("t1");
  timeline.addEcho(echo);
  timeline.markEchoStored(echo, "$2");
  expect(timeline.pending).toEqual([echo]);
  timeline.update([event("$2", { unsigned: { transaction_id: "t1" } })], false, undefined);
  expect(timeline.pending).toEqual([]);
  expect(timeline.last).toBe(echo);
  expect(ids(timeline)).toEqual(["$1", "$2"]);
});

test("an echo becomes the event when the sync arrives first", () => {
  const timeline = timelineWith(event("$1"));
  const echo = echoOf("t1");
  timeline.addEcho(echo);
  timeline.update([event("$2", { unsigned: { transaction_id: "t1" } })], false, undefined);
  timeline.markEchoStored(echo, "$2");
  expect(timeline.pending).toEqual([]);
  expect(ids(timeline)).toEqual(["$1", "$2"]);
  expect(timeline.last?.sendState).toBe("sent");
});

test("the newest edit is shown, in whatever order edits arrive", () => {
  const first = edit("$e1", "$1", "first");
  const second = edit("$e2", "$1", "second");
  const timeline = timelineWith(event("$1"), second, first);
  expect(timeline.get("$1")?.content["body"]).toBe("second");
});

test("only the sender can edit", () => {
  const timeline = timelineWith(event("$1"), edit("$e1", "$1", "not yours", { sender: "@mallory:x" }));
  expect(timeline.get("$1")?.isEdited).toBe(false);
});

test("redacting an edit shows the previous version", () => {
  const timeline = timelineWith(event("$1"), edit("$e1", "$1", "first"), edit("$e2", "$1", "second"), redaction("$x", "$e2"));
  expect(timeline.get("$1")?.content["body"]).toBe("first");
  expect(timeline.get("$e2")?.isRedactedEdit).toBe(true);
});

test("an edit is shown immediately, and no longer once discarded", () => {
  const timeline = timelineWith(event("$1"));
  const echo = new TimelineEvent(edit("~t1", "$1", "new"), "t1");
  timeline.addEcho(echo);
  expect(timeline.get("$1")?.content["body"]).toBe("new");
  timeline.removeEcho(echo);
  expect(timeline.get("$1")?.content["body"]).toBe("$1");
});

test("relations that arrive before their event apply once it is loaded", async () => {
  const all = [event("$1"), reaction("$r", "$1", "👍", "@bob:x"), edit("$e", "$1", "edited"), reply("$t", "$1"), event("$2"), redaction("$x", "$2")];
  const timeline = new Timeline(serverWithHistory(all, 1), "!r:x");
  timeline.update([], true, String(all.length));
  while (timeline.canGoBack) await timeline.loadBack();
  const target = timeline.get("$1")!;
  expect(target.reactions.get("👍")?.get("@bob:x")).toBe("$r");
  expect(target.content["body"]).toBe("edited");
  expect(target.thread?.count).toBe(1);
  expect(timeline.get("$2")?.isRedacted).toBe(true);
});

test("a redacted reaction disappears, a redacted message loses its content", () => {
  const timeline = timelineWith(event("$1"), reaction("$r", "$1", "👍", "@bob:x"), redaction("$x1", "$r"), redaction("$x2", "$1"));
  expect(timeline.get("$1")?.reactions.size).toBe(0);
  expect(timeline.get("$1")?.isRedacted).toBe(true);
  expect(timeline.get("$1")?.content).toEqual({});
});

test("a thread counts bundled and later replies, without redacted ones", () => {
  const bundled = reply("$t2", "$1");
  const root = event("$1", { origin_server_ts: 1, unsigned: { "m.relations": { "m.thread": { count: 2, latest_event: bundled } } } });
  const timeline = timelineWith(root, reply("$t1", "$1", { origin_server_ts: 2 }), bundled, reply("$t3", "$1"));
  expect(timeline.get("$1")?.thread?.count).toBe(3);
  timeline.update([redaction("$x", "$t3")], false, undefined);
  expect(timeline.get("$1")?.thread?.count).toBe(2);
});

test("a timeline around an old event merges once it overlaps the live one", async () => {
  const all = Array.from({ length: 9 }, (_, at) => event(`$${at}`));
  const live = timelineWith(...all.slice(6));
  const old = timelineWith(...all.slice(0, 4));
  live.newEventListeners.add((raw) => old.applyRelatedEvent(raw));
  live.update([reaction("$r", "$1", "👍", "@bob:x")], false, undefined);
  expect(old.get("$1")?.reactions.get("👍")?.size).toBe(1);
  live.update([redaction("$x", "$r")], false, undefined);
  expect(old.get("$1")?.reactions.size).toBe(0);

  expect(live.mergeOlder(old)).toBe(false);
  old.append(all.slice(4, 8));
  expect(live.mergeOlder(old)).toBe(true);
  expect(ids(live).slice(0, 9)).toEqual(all.map(({ event_id }) => event_id));
});
