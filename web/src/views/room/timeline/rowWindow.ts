// Which of many rows are in the page.

import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";

/** By the order of events, since positions change when history comes in front. */
export interface Window {
  from: number;
  to: number;
}

export const EVERYTHING: Window = { from: -Infinity, to: Infinity };

/** At most so many rows are in the page. */
export const MOST = 200;
/** So many stay when the end is followed, and so many come at once. */
const KEPT = 100;
const STEP = 40;

/** The positions of the first row in the window, and of the first one after it. */
export function sliceOf(rows: TimelineRow[], { from, to }: Window): [number, number] {
  return [firstWhere(rows, (row) => row.last >= from), firstWhere(rows, (row) => row.first > to)];
}

/** Cuts a window that has too many rows: to the end where that is followed, else to what surrounds a row. */
export function cut(rows: TimelineRow[], window: Window, around: number | "end"): Window {
  const [start, end] = sliceOf(rows, window);
  if (end - start <= MOST) return window;
  if (around === "end") return { from: rows[Math.max(end - KEPT, 0)]!.first, to: Infinity };
  return aroundRow(rows, around);
}

export function aroundRow(rows: TimelineRow[], at: number): Window {
  return between(rows, at - MOST / 2, at + MOST / 2);
}

export function up(rows: TimelineRow[], window: Window): Window {
  const [start, end] = sliceOf(rows, window);
  const first = Math.max(start - STEP, 0);
  return between(rows, first, Math.min(end, first + MOST));
}

export function down(rows: TimelineRow[], window: Window): Window {
  const [start, end] = sliceOf(rows, window);
  const last = Math.min(end + STEP, rows.length);
  return between(rows, Math.max(start, last - MOST), last);
}

/** The window from one position up to another; at the ends it is open. */
function between(rows: TimelineRow[], start: number, end: number): Window {
  return {
    from: start <= 0 ? -Infinity : rows[start]!.first,
    to: end >= rows.length ? Infinity : rows[end - 1]!.last,
  };
}

function firstWhere(rows: TimelineRow[], holds: (row: TimelineRow) => boolean): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(rows[middle]!)) high = middle;
    else low = middle + 1;
  }
  return low;
}
