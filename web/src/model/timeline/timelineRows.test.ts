import { expect, test } from "vitest";
import type { RawEvent } from "../server/events.ts";
import { apiAnswering, edit, event, reaction, redaction, reply } from "../testHelpers.ts";
import { Timeline } from "./timeline.ts";
import { buildRows } from "./timelineRows.ts";

const NOON_MS = Date.UTC(2026, 0, 5, 12);
const MINUTE_MS = 60_000;

function timelineEvents(...raw: RawEvent[]) {
  const timeline = new Timeline(
    apiAnswering(() => ({})),
    "!r:x",
  );
  timeline.append(raw);
  return timeline.events;
}

const at = (id: string, time: number, sender = "@alice:x") => event(id, { origin_server_ts: time, sender });
const join = (id: string, user: string, time: number) =>
  event(id, { type: "m.room.member", state_key: user, sender: user, origin_server_ts: time, content: { membership: "join" } });

test("messages of one sender are grouped until some minutes pass", () => {
  const rows = buildRows(
    timelineEvents(at("$1", NOON_MS), at("$2", NOON_MS + MINUTE_MS), at("$3", NOON_MS + 2 * MINUTE_MS, "@bob:x"), at("$4", NOON_MS + 20 * MINUTE_MS, "@bob:x")),
    {
      me: "@me:x",
    },
  );
  expect(rows.map((row) => row.kind === "message" && [row.isFirst, row.isLast])).toEqual([
    [true, false],
    [false, true],
    [true, true],
    [true, true],
  ]);
});

test("days are separated", () => {
  const rows = buildRows(timelineEvents(at("$1", NOON_MS), at("$2", NOON_MS + MINUTE_MS), at("$3", NOON_MS + 1_440 * MINUTE_MS)), { me: "@me:x" });
  expect(rows.map(({ day }) => day)).toEqual([NOON_MS, null, NOON_MS + 1_440 * MINUTE_MS]);
});

test("unread messages start at the first one by another user", () => {
  const events = timelineEvents(at("$1", NOON_MS), at("$2", NOON_MS, "@me:x"), at("$3", NOON_MS), at("$4", NOON_MS));
  const rows = buildRows(events, { me: "@me:x", readUpTo: events[0]!.order });
  expect(rows.map(({ isUnread }) => isUnread)).toEqual([false, false, true, false]);
});

test("consecutive changes share a row; edits, reactions and threads have none", () => {
  const events = timelineEvents(
    join("$a", "@a:x", NOON_MS),
    join("$b", "@b:x", NOON_MS),
    at("$1", NOON_MS),
    edit("$e", "$1", "new", { origin_server_ts: NOON_MS }),
    reaction("$r", "$1", "👍", "@b:x"),
    reply("$t", "$1", { origin_server_ts: NOON_MS }),
  );
  const rows = buildRows(events, { me: "@me:x" });
  expect(rows.map(({ kind, key }) => [kind, key])).toEqual([
    ["changes", "$a"],
    ["message", "$1"],
  ]);
});

test("a thread shows only its root and its replies", () => {
  const events = timelineEvents(at("$1", NOON_MS), at("$2", NOON_MS), reply("$t", "$1", { origin_server_ts: NOON_MS }), join("$a", "@a:x", NOON_MS));
  expect(buildRows(events, { me: "@me:x", thread: "$1" }).map(({ key }) => key)).toEqual(["$1", "$t"]);
});

test("a deleted message keeps its row, a deleted edit does not", () => {
  const events = timelineEvents(
    at("$1", NOON_MS),
    edit("$e", "$1", "x", { origin_server_ts: NOON_MS }),
    at("$2", NOON_MS),
    redaction("$x", "$e"),
    redaction("$y", "$2"),
  );
  expect(buildRows(events, { me: "@me:x" }).map(({ key }) => key)).toEqual(["$1", "$2"]);
});
