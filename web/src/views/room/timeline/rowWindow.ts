// Selects the rows that are rendered.

import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";

/** A range of rows. It is given by the order of events, because indexes change when older rows are added. */
export interface RowWindow {
  from: number;
  to: number;
}

export const ALL_ROWS: RowWindow = { from: -Infinity, to: Infinity };

/** The most rows that are rendered. */
export const MAX_ROWS = 200;
/** The number of rows that stay while the view follows the end, and the number that is added at a time. */
const ROWS_AT_END = 100;
const STEP_ROWS = 40;

/** Returns the index of the first row in the window, and of the first row after it. */
export function sliceOf(rows: TimelineRow[], { from, to }: RowWindow): [number, number] {
  return [firstIndexWhere(rows, (row) => row.last >= from), firstIndexWhere(rows, (row) => row.first > to)];
}

/**
 * Shrinks a window with too many rows: to the end of the list if the view follows it, else to the surroundings of a
 * row.
 */
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

/** Returns the window between two indexes; it is open at the ends of the list. */
function windowBetween(rows: TimelineRow[], start: number, end: number): RowWindow {
  return {
    from: start <= 0 ? -Infinity : rows[start]!.first,
    to: end >= rows.length ? Infinity : rows[end - 1]!.last,
  };
}

function firstIndexWhere(rows: TimelineRow[], matches: (row: TimelineRow) => boolean): number {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (matches(rows[middle]!)) high = middle;
    else low = middle + 1;
  }
  return low;
}
