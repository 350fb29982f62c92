import { expect, test } from "vitest";
import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { aroundRow, cut, down, EVERYTHING, MOST, sliceOf, up } from "./rowWindow.ts";

const rowsUpTo = (count: number) => Array.from({ length: count }, (_, at) => ({ key: `$${at}`, first: at * 2, last: at * 2 + 1 }) as TimelineRow);

test("few rows are all in the page", () => {
  expect(sliceOf(rowsUpTo(30), cut(rowsUpTo(30), EVERYTHING, "end"))).toEqual([0, 30]);
});

test("of many rows the newest are in the page, and new ones join them", () => {
  const window = cut(rowsUpTo(1_000), EVERYTHING, "end");
  expect(sliceOf(rowsUpTo(1_000), window)).toEqual([900, 1_000]);
  expect(sliceOf(rowsUpTo(1_001), window)).toEqual([900, 1_001]);
});

test("one comes from the end to the beginning and back, with never too many rows", () => {
  const rows = rowsUpTo(1_000);
  let window = cut(rows, EVERYTHING, "end");
  while (sliceOf(rows, window)[0] > 0) {
    window = up(rows, window);
    const [start, end] = sliceOf(rows, window);
    expect(end - start).toBeLessThanOrEqual(MOST);
  }
  while (sliceOf(rows, window)[1] < 1_000) {
    window = down(rows, window);
    const [start, end] = sliceOf(rows, window);
    expect(end - start).toBeLessThanOrEqual(MOST);
  }
  expect(window.to).toBe(Infinity);
});

test("a row in the middle has rows on both sides", () => {
  expect(sliceOf(rowsUpTo(1_000), aroundRow(rowsUpTo(1_000), 500))).toEqual([400, 600]);
});
