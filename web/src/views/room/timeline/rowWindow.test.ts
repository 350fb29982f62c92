import { expect, test } from "vitest";
import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { ALL_ROWS, limitWindow, MAX_ROWS, moveDown, moveUp, sliceOf, windowAround } from "./rowWindow.ts";

const rowsUpTo = (count: number) => Array.from({ length: count }, (_, at) => ({ key: `$${at}`, first: at * 2, last: at * 2 + 1 }) as TimelineRow);

test("few rows are all in the page", () => {
  expect(sliceOf(rowsUpTo(30), limitWindow(rowsUpTo(30), ALL_ROWS, "end"))).toEqual([0, 30]);
});

test("of many rows the newest are in the page, and new ones join them", () => {
  const window = limitWindow(rowsUpTo(1_000), ALL_ROWS, "end");
  expect(sliceOf(rowsUpTo(1_000), window)).toEqual([900, 1_000]);
  expect(sliceOf(rowsUpTo(1_001), window)).toEqual([900, 1_001]);
});

test("one comes from the end to the beginning and back, with never too many rows", () => {
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

test("a row in the middle has rows on both sides", () => {
  expect(sliceOf(rowsUpTo(1_000), windowAround(rowsUpTo(1_000), 500))).toEqual([400, 600]);
});
