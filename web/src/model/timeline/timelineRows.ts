// What stands under each other in a conversation: messages, grouped by who says them, and folded changes of the room.

import { isShown } from "../rooms/room.ts";
import { isDescribed } from "./stateEventText.ts";
import type { TimelineEvent } from "./timelineEvent.ts";

interface Placed {
  key: string;
  /** The orders of its first and last event. */
  first: number;
  last: number;
  /** When the day begins, where it begins here. */
  day: number | null;
  /** Whether the new messages begin here. */
  isUnread: boolean;
}

export interface MessageRow extends Placed {
  kind: "message";
  event: TimelineEvent;
  /** Whether it is the first, or the last, of those that one person says in a row. */
  isFirst: boolean;
  isLast: boolean;
}

export interface ChangesRow extends Placed {
  kind: "changes";
  events: TimelineEvent[];
}

export type Row = MessageRow | ChangesRow;

export interface RowOptions {
  me: string;
  /** The thread that is shown; the conversation itself leaves threads out. */
  thread?: string | undefined;
  /** The order of the last event that was read before. */
  readUpTo?: number | null;
}

/** Whoever says something again within this time needs no new heading. */
const GROUP_MS = 5 * 60_000;

export function rowsOf(events: Iterable<TimelineEvent>, { me, thread, readUpTo = null }: RowOptions): Row[] {
  const rows: Row[] = [];
  let unreadBegun = readUpTo === null;
  let lastDay = "";
  for (const event of events) {
    const isMessage = isMessageOf(event, thread);
    if (!isMessage && (thread !== undefined || !isDescribed(event))) continue;
    const today = dayOf(event.time);
    const day = today === lastDay ? null : event.time;
    lastDay = today;
    const isUnread = !unreadBegun && event.sender !== me && isMessage && event.order > readUpTo!;
    if (isUnread) unreadBegun = true;
    const placed = { key: event.key, first: event.order, last: event.order, day, isUnread };
    const before = rows.at(-1);
    if (isMessage) {
      const joins = before?.kind === "message" && day === null && !isUnread && follows(event, before.event);
      if (joins) before.isLast = false;
      rows.push({ ...placed, kind: "message", event, isFirst: !joins, isLast: true });
    } else if (before?.kind === "changes" && day === null) {
      before.events.push(event);
      before.last = event.order;
    } else {
      rows.push({ ...placed, kind: "changes", events: [event] });
    }
  }
  return rows;
}

function isMessageOf(event: TimelineEvent, thread: string | undefined): boolean {
  if (!isShown(event.raw) || event.isState || event.isRetractedEdit) return false;
  const { type, target } = event.relation;
  if (type === "m.replace") return event.sendState === "failed" && !event.isStored;
  return thread === undefined ? type !== "m.thread" : event.id === thread || (type === "m.thread" && target === thread);
}

function follows(event: TimelineEvent, before: TimelineEvent): boolean {
  return event.sender === before.sender && event.time - before.time < GROUP_MS;
}

const OFFSET_MS = 60_000;

/** Names the day of a time, by the clock of the reader. */
function dayOf(time: number): string {
  const offset = new Date(time).getTimezoneOffset() * OFFSET_MS;
  return String(Math.floor((time - offset) / 86_400_000));
}
