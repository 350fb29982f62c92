import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import "./VirtualList.css";

interface Props<T> {
  items: T[];
  keyOf: (item: T) => string;
  /** The height of every row, in rem. */
  rowHeight: number;
  render: (item: T) => ComponentChildren;
  label: string;
}

/** The number of rows to render above and below the visible ones. */
const EXTRA_ROWS = 8;

/**
 * A list with rows of equal height that renders only the visible ones. It scrolls with its nearest scrolling ancestor.
 */
export function VirtualList<T>({ items, keyOf, rowHeight, render, label }: Props<T>) {
  const list = useRef<HTMLUListElement>(null);
  const [range, setRange] = useState({ from: 0, to: 30 });
  useLayoutEffect(() => {
    const scroller = scrollerOf(list.current);
    if (scroller === null) return;
    const update = () => {
      if (list.current === null) return;
      const height = rowHeight * parseFloat(getComputedStyle(document.documentElement).fontSize);
      const above = scroller.getBoundingClientRect().top - list.current.getBoundingClientRect().top;
      const from = Math.max(Math.floor(above / height) - EXTRA_ROWS, 0);
      const to = Math.max(Math.ceil((above + scroller.clientHeight) / height) + EXTRA_ROWS, 0);
      setRange((known) => (known.from === from && known.to === to ? known : { from, to }));
    };
    update();
    const resizeObserver = new ResizeObserver(update);
    resizeObserver.observe(scroller);
    scroller.addEventListener("scroll", update, { passive: true });
    return () => {
      resizeObserver.disconnect();
      scroller.removeEventListener("scroll", update);
    };
  }, [items.length, rowHeight]);
  const seen = items.slice(range.from, range.to);
  return (
    <ul ref={list} class="windowed" role="list" aria-label={label} style={{ height: `${items.length * rowHeight}rem` }}>
      {seen.map((item, at) => (
        <li
          key={keyOf(item)}
          aria-setsize={items.length}
          aria-posinset={range.from + at + 1}
          style={{ top: `${(range.from + at) * rowHeight}rem`, height: `${rowHeight}rem` }}
        >
          {render(item)}
        </li>
      ))}
    </ul>
  );
}

function scrollerOf(element: HTMLElement | null): HTMLElement | null {
  for (let at = element?.parentElement ?? null; at !== null; at = at.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(at).overflowY)) return at;
  }
  return null;
}
