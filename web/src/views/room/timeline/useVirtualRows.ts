// Moves a window over many rows as one scrolls, and loads more at its ends.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { aroundRow, cut, down, EVERYTHING, sliceOf, up, type Window } from "./rowWindow.ts";
import { Keeper } from "./scrollAnchor.ts";

/** So near to an end of the page's rows, in pixels, more of them come. */
const NEAR = 900;

export interface Ends {
  /** What the rows belong to; when it changes, the place among the new ones is found again. */
  of: unknown;
  /** Whether the last row is the newest of all. */
  isNewest: boolean;
  loadBack: (() => void) | null;
  loadForward: (() => void) | null;
}

export function useWindowedList(rows: TimelineRow[], ends: Ends) {
  const [, setDrawn] = useState(0);
  const redraw = () => setDrawn((times) => times + 1);
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const window = useRef<Window>(EVERYTHING);
  const latest = useRef({ rows, ends });
  const keeper = useMemo(() => new Keeper(() => isWholeEnd(latest.current.rows, window.current) && latest.current.ends.isNewest), []);

  keeper.capture();
  if (latest.current.ends.of !== ends.of) {
    if (!ends.isNewest) keeper.isStuck = false;
    window.current = keeper.isStuck ? EVERYTHING : foundAgain(rows, keeper);
  }
  latest.current = { rows, ends };
  if (rows.length > 0) window.current = cut(rows, window.current, keeper.isStuck ? "end" : middleOf(rows, keeper));
  const [start, end] = sliceOf(rows, window.current);

  const move = (to: Window) => {
    window.current = to;
    redraw();
  };
  /** Brings more rows where an end of those in the page is near. */
  const check = () => {
    const { rows, ends } = latest.current;
    const [start, end] = sliceOf(rows, window.current);
    const { above, below } = keeper.hidden;
    if (above < NEAR && start > 0) move(up(rows, window.current));
    else if (below < NEAR && end < rows.length) move(down(rows, window.current));
    else {
      if (above < NEAR) ends.loadBack?.();
      if (below < NEAR) ends.loadForward?.();
    }
  };

  useLayoutEffect(() => {
    keeper.scroller = scroller.current;
    keeper.content = content.current;
    keeper.restore();
  });
  useEffect(check);
  useEffect(() => {
    const view = scroller.current!;
    const onScroll = () => {
      const wasStuck = keeper.isStuck;
      keeper.measure();
      check();
      if (wasStuck !== keeper.isStuck) redraw();
    };
    view.addEventListener("scroll", onScroll, { passive: true });
    // Pictures, reactions, a keyboard on the screen: sizes change without a new row.
    const sizes = new ResizeObserver(() => {
      keeper.restore();
      check();
    });
    sizes.observe(view);
    sizes.observe(content.current!);
    return () => {
      view.removeEventListener("scroll", onScroll);
      sizes.disconnect();
    };
  }, []);

  return {
    scroller,
    content,
    keeper,
    redraw,
    shown: rows.slice(start, end),
    /** Whether newer rows are not in the page. */
    isCutBelow: end < rows.length,
    /** Brings a row into the page; it can be scrolled to when that is drawn. */
    bring: (at: number) => {
      keeper.isStuck = false;
      const [start, end] = sliceOf(latest.current.rows, window.current);
      if (at < start + 10 || at >= end - 10) window.current = aroundRow(latest.current.rows, at);
      redraw();
    },
    /** Shows the newest rows and follows them. */
    toEnd: () => {
      keeper.isStuck = true;
      move({ from: latest.current.rows.at(-100)?.first ?? -Infinity, to: Infinity });
    },
  };
}

function isWholeEnd(rows: TimelineRow[], window: Window): boolean {
  return sliceOf(rows, window)[1] >= rows.length;
}

function middleOf(rows: TimelineRow[], keeper: Keeper): number {
  const keys = new Set(keeper.visibleKeys);
  const at = rows.findLastIndex(({ key }) => keys.has(key));
  return at === -1 ? rows.length - 1 : at;
}

/** The window among other rows in which what was in view is in view. */
function foundAgain(rows: TimelineRow[], keeper: Keeper): Window {
  const keys = new Set(keeper.visibleKeys);
  const at = rows.findIndex(({ key }) => keys.has(key));
  if (at === -1) return EVERYTHING;
  return aroundRow(rows, at);
}
