// The rows of a conversation: messages, grouped by sender, and state changes, folded together.

import { isVisibleMessage } from "../rooms/room.ts";
import { hasStateEventText } from "./stateEventText.ts";
import type { TimelineEvent } from "./timelineEvent.ts";

interface RowBase {
  key: string;
  /** The orders of the first and last event of the row. */
  first: number;
  last: number;
  /** The time of the row, if a new day starts here. */
  day: number | null;
  /** Whether the unread messages start here. */
  isUnread: boolean;
}

export interface MessageRow extends RowBase {
  kind: "message";
  event: TimelineEvent;
  /** Whether this is the first, or the last, message of a group by one sender. */
  isFirst: boolean;
  isLast: boolean;
}

export interface ChangesRow extends RowBase {
  kind: "changes";
  events: TimelineEvent[];
}

export type TimelineRow = MessageRow | ChangesRow;

export interface TimelineRowOptions {
  me: string;
  /** The root of the thread that is shown; undefined for the conversation itself, which leaves threads out. */
  thread?: string | undefined;
  /** The order of the last event that was read before. */
  readUpTo?: number | null;
}

/** Messages of one sender within this time are a group. */
const MESSAGE_GROUP_MS = 5 * 60_000;

export function buildRows(events: Iterable<TimelineEvent>, { me, thread, readUpTo = null }: TimelineRowOptions): TimelineRow[] {
  const rows: TimelineRow[] = [];
  let hasUnreadRow = readUpTo === null;
  let lastDay = "";
  for (const event of events) {
    const isMessage = isMessageIn(event, thread);
    if (!isMessage && (thread !== undefined || !hasStateEventText(event))) continue;
    const today = dayNumber(event.time);
    const day = today === lastDay ? null : event.time;
    lastDay = today;
    const isUnread = !hasUnreadRow && event.sender !== me && isMessage && event.order > readUpTo!;
    if (isUnread) hasUnreadRow = true;
    const base = { key: event.key, first: event.order, last: event.order, day, isUnread };
    const before = rows.at(-1);
    if (isMessage) {
      const joinsGroup = before?.kind === "message" && day === null && !isUnread && continuesGroup(event, before.event);
      if (joinsGroup) before.isLast = false;
      rows.push({ ...base, kind: "message", event, isFirst: !joinsGroup, isLast: true });
    } else if (before?.kind === "changes" && day === null) {
      before.events.push(event);
      before.last = event.order;
    } else {
      rows.push({ ...base, kind: "changes", events: [event] });
    }
  }
  return rows;
}

function isMessageIn(event: TimelineEvent, thread: string | undefined): boolean {
  if (!isVisibleMessage(event.raw) || event.isState || event.isRedactedEdit) return false;
  const { type, target } = event.relation;
  if (type === "m.replace") return event.sendState === "failed" && !event.isStored;
  return thread === undefined ? type !== "m.thread" : event.id === thread || (type === "m.thread" && target === thread);
}

function continuesGroup(event: TimelineEvent, before: TimelineEvent): boolean {
  return event.sender === before.sender && event.time - before.time < MESSAGE_GROUP_MS;
}

const MINUTE_MS = 60_000;

/** Returns a number for the day of a time, in the reader's time zone. */
function dayNumber(time: number): string {
  const offset = new Date(time).getTimezoneOffset() * MINUTE_MS;
  return String(Math.floor((time - offset) / 86_400_000));
}
