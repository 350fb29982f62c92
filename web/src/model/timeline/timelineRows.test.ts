import { expect, test } from "vitest";
import type { RawEvent } from "../server/events.ts";
import { apiAnswering, edit, event, reaction, redaction, reply } from "../testHelpers.ts";
import { Timeline } from "./timeline.ts";
import { buildRows } from "./timelineRows.ts";

const NOON = Date.UTC(2026, 0, 5, 12);
const MINUTE = 60_000;

function eventsOf(...raw: RawEvent[]) {
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

test("what one person says in a row is grouped, until some minutes pass", () => {
  const rows = buildRows(eventsOf(at("$1", NOON), at("$2", NOON + MINUTE), at("$3", NOON + 2 * MINUTE, "@bob:x"), at("$4", NOON + 20 * MINUTE, "@bob:x")), {
    me: "@me:x",
  });
  expect(rows.map((row) => row.kind === "message" && [row.isFirst, row.isLast])).toEqual([
    [true, false],
    [false, true],
    [true, true],
    [true, true],
  ]);
});

test("days are separated", () => {
  const rows = buildRows(eventsOf(at("$1", NOON), at("$2", NOON + MINUTE), at("$3", NOON + 1_440 * MINUTE)), { me: "@me:x" });
  expect(rows.map(({ day }) => day)).toEqual([NOON, null, NOON + 1_440 * MINUTE]);
});

test("the new messages begin with the first of somebody else after what was read", () => {
  const events = eventsOf(at("$1", NOON), at("$2", NOON, "@me:x"), at("$3", NOON), at("$4", NOON));
  const rows = buildRows(events, { me: "@me:x", readUpTo: events[0]!.order });
  expect(rows.map(({ isUnread }) => isUnread)).toEqual([false, false, true, false]);
});

test("changes in a row are one row; edits, reactions and threads are none", () => {
  const events = eventsOf(
    join("$a", "@a:x", NOON),
    join("$b", "@b:x", NOON),
    at("$1", NOON),
    edit("$e", "$1", "new", { origin_server_ts: NOON }),
    reaction("$r", "$1", "👍", "@b:x"),
    reply("$t", "$1", { origin_server_ts: NOON }),
  );
  const rows = buildRows(events, { me: "@me:x" });
  expect(rows.map(({ kind, key }) => [kind, key])).toEqual([
    ["changes", "$a"],
    ["message", "$1"],
  ]);
});

test("a thread has its root and its answers, and nothing else", () => {
  const events = eventsOf(at("$1", NOON), at("$2", NOON), reply("$t", "$1", { origin_server_ts: NOON }), join("$a", "@a:x", NOON));
  expect(buildRows(events, { me: "@me:x", thread: "$1" }).map(({ key }) => key)).toEqual(["$1", "$t"]);
});

test("a deleted message leaves its place, a deleted edit does not", () => {
  const events = eventsOf(at("$1", NOON), edit("$e", "$1", "x", { origin_server_ts: NOON }), at("$2", NOON), redaction("$x", "$e"), redaction("$y", "$2"));
  expect(buildRows(events, { me: "@me:x" }).map(({ key }) => key)).toEqual(["$1", "$2"]);
});
