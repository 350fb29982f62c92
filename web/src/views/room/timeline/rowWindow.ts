// Which of many rows are in the page.

import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";

/** By the order of events, since positions change when history comes in front. */
export interface RowWindow {
  from: number;
  to: number;
}

export const ALL_ROWS: RowWindow = { from: -Infinity, to: Infinity };

/** At most so many rows are in the page. */
export const MAX_ROWS = 200;
/** So many stay when the end is followed, and so many come at once. */
const ROWS_AT_END = 100;
const STEP_ROWS = 40;

/** The positions of the first row in the window, and of the first one after it. */
export function sliceOf(rows: TimelineRow[], { from, to }: RowWindow): [number, number] {
  return [firstIndexWhere(rows, (row) => row.last >= from), firstIndexWhere(rows, (row) => row.first > to)];
}

/** Cuts a window that has too many rows: to the end where that is followed, else to what surrounds a row. */
export function limitWindow(rows: TimelineRow[], window: RowWindow, around: number | "end"): RowWindow {
  const [start, end] = sliceOf(rows, window);
  if (end - start <= MAX_ROWS) return window;
  if (around === "end") return { from: rows[Math.max(end - ROWS_AT_END, 0)]!.first, to: Infinity };
  return windowAround(rows, around);
}

export function windowAround(rows: TimelineRow[], at: number): RowWindow {
  return windowBetween(rows, at - MAX_ROWS / 2, at + MAX_ROWS / 2);
}

export function moveUp(rows: TimelineRow[], window: RowWindow): RowWindow {
  const [start, end] = sliceOf(rows, window);
  const first = Math.max(start - STEP_ROWS, 0);
  return windowBetween(rows, first, Math.min(end, first + MAX_ROWS));
}

export function moveDown(rows: TimelineRow[], window: RowWindow): RowWindow {
  const [start, end] = sliceOf(rows, window);
  const last = Math.min(end + STEP_ROWS, rows.length);
  return windowBetween(rows, Math.max(start, last - MAX_ROWS), last);
}

/** The window from one position up to another; at the ends it is open. */
function windowBetween(rows: TimelineRow[], start: number, end: number): RowWindow {
  return {
    from: start <= 0 ? -Infinity : rows[start]!.first,
    to: end >= rows.length ? Infinity : rows[end - 1]!.last,
  };
}

function firstIndexWhere(rows: TimelineRow[], holds: (row: TimelineRow) => boolean): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(rows[middle]!)) high = middle;
    else low = middle + 1;
  }
  return low;
}
