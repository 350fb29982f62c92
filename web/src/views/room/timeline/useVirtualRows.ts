// Renders a window of many rows, moves it while scrolling, and loads more rows at its ends.

import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { ALL_ROWS, limitWindow, moveDown, moveUp, type RowWindow, sliceOf, windowAround } from "./rowWindow.ts";
import { ScrollAnchor } from "./scrollAnchor.ts";

/** The distance to an end of the rendered rows, in pixels, at which more are added. */
const LOAD_MARGIN_PX = 900;

export interface VirtualRowsOptions {
  /** The owner of the rows. When it changes, the visible rows are found again among the new ones. */
  of: unknown;
  /** Whether the last row is the newest of all. */
  isNewest: boolean;
  loadBack: (() => void) | null;
  loadForward: (() => void) | null;
}

export function useVirtualRows(rows: TimelineRow[], options: VirtualRowsOptions) {
  const [, setDrawn] = useState(0);
  const redraw = () => setDrawn((times) => times + 1);
  const scroller = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const window = useRef<RowWindow>(ALL_ROWS);
  const latest = useRef({ rows, options });
  const anchor = useMemo(() => new ScrollAnchor(() => includesLastRow(latest.current.rows, window.current) && latest.current.options.isNewest), []);

  anchor.capture();
  if (latest.current.options.of !== options.of) {
    if (!options.isNewest) anchor.followsEnd = false;
    window.current = anchor.followsEnd ? ALL_ROWS : windowAroundVisible(rows, anchor);
  }
  latest.current = { rows, options };
  if (rows.length > 0) window.current = limitWindow(rows, window.current, anchor.followsEnd ? "end" : lastVisibleIndex(rows, anchor));
  const [start, end] = sliceOf(rows, window.current);

  const move = (to: RowWindow) => {
    window.current = to;
    redraw();
  };
  /** Renders or loads more rows if an end of the rendered ones is near. */
  const loadNearEdges = () => {
    const { rows, options } = latest.current;
    const [start, end] = sliceOf(rows, window.current);
    const { above, below } = anchor.hiddenPixels;
    if (above < LOAD_MARGIN_PX && start > 0) move(moveUp(rows, window.current));
    else if (below < LOAD_MARGIN_PX && end < rows.length) move(moveDown(rows, window.current));
    else {
      if (above < LOAD_MARGIN_PX) options.loadBack?.();
      if (below < LOAD_MARGIN_PX) options.loadForward?.();
    }
  };

  useLayoutEffect(() => {
    anchor.scroller = scroller.current;
    anchor.content = content.current;
    anchor.restore();
  });
  useEffect(loadNearEdges);
  useEffect(() => {
    const view = scroller.current!;
    const onScroll = () => {
      const followedEnd = anchor.followsEnd;
      anchor.measure();
      loadNearEdges();
      if (followedEnd !== anchor.followsEnd) redraw();
    };
    view.addEventListener("scroll", onScroll, { passive: true });
    // Sizes also change without a new row: pictures, reactions, an on-screen keyboard.
    const resizeObserver = new ResizeObserver(() => {
      anchor.restore();
      loadNearEdges();
    });
    resizeObserver.observe(view);
    resizeObserver.observe(content.current!);
    return () => {
      view.removeEventListener("scroll", onScroll);
      resizeObserver.disconnect();
    };
  }, []);

  return {
    scroller,
    content,
    anchor,
    redraw,
    shown: rows.slice(start, end),
    /** Whether newer rows are not rendered. */
    isCutBelow: end < rows.length,
    /** Renders a row; afterwards it can be scrolled to. */
    renderRow: (at: number) => {
      anchor.followsEnd = false;
      const [start, end] = sliceOf(latest.current.rows, window.current);
      if (at < start + 10 || at >= end - 10) window.current = windowAround(latest.current.rows, at);
      redraw();
    },
    /** Shows the newest rows and follows them. */
    toEnd: () => {
      anchor.followsEnd = true;
      move({ from: latest.current.rows.at(-100)?.first ?? -Infinity, to: Infinity });
    },
  };
}

function includesLastRow(rows: TimelineRow[], window: RowWindow): boolean {
  return sliceOf(rows, window)[1] >= rows.length;
}

function lastVisibleIndex(rows: TimelineRow[], anchor: ScrollAnchor): number {
  const keys = new Set(anchor.visibleKeys);
  const at = rows.findLastIndex(({ key }) => keys.has(key));
  return at === -1 ? rows.length - 1 : at;
}

/** Returns the window of the new rows that contains the visible ones. */
function windowAroundVisible(rows: TimelineRow[], anchor: ScrollAnchor): RowWindow {
  const keys = new Set(anchor.visibleKeys);
  const at = rows.findIndex(({ key }) => keys.has(key));
  if (at === -1) return ALL_ROWS;
  return windowAround(rows, at);
}
