import { expect, test } from "vitest";
import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { ALL_ROWS, limitWindow, MAX_ROWS, moveDown, moveUp, sliceOf, windowAround } from "./rowWindow.ts";

const rowsUpTo = (count: number) => Array.from({ length: count }, (_, at) => ({ key: `$${at}`, first: at * 2, last: at * 2 + 1 }) as TimelineRow);

test("a few rows are all rendered", () => {
  expect(sliceOf(rowsUpTo(30), limitWindow(rowsUpTo(30), ALL_ROWS, "end"))).toEqual([0, 30]);
});

test("of many rows the newest are rendered, and new ones are added", () => {
  const window = limitWindow(rowsUpTo(1_000), ALL_ROWS, "end");
  expect(sliceOf(rowsUpTo(1_000), window)).toEqual([900, 1_000]);
  expect(sliceOf(rowsUpTo(1_001), window)).toEqual([900, 1_001]);
});

test("the window moves to the start and back with a bounded size", () => {
  const rows = rowsUpTo(1_000);
  let window = limitWindow(rows, ALL_ROWS, "end");
  while (sliceOf(rows, window)[0] > 0) {
    window = moveUp(rows, window);
    const [start, end] = sliceOf(rows, window);
    expect(end - start).toBeLessThanOrEqual(MAX_ROWS);
  }
  while (sliceOf(rows, window)[1] < 1_000) {
    window = moveDown(rows, window);
    const [start, end] = sliceOf(rows, window);
    expect(end - start).toBeLessThanOrEqual(MAX_ROWS);
  }
  expect(window.to).toBe(Infinity);
});

test("a window around a row has rows on both sides", () => {
  expect(sliceOf(rowsUpTo(1_000), windowAround(rowsUpTo(1_000), 500))).toEqual([400, 600]);
});
