import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";
import "./VirtualList.css";

interface Props<T> {
  items: T[];
  keyOf: (item: T) => string;
  /** The height of every row, in rem. */
  row: number;
  render: (item: T) => ComponentChildren;
  label: string;
}

/** So many rows are kept ready above and below what is seen. */
const AHEAD = 8;

/** A list with rows of one height, of which only those are made that are seen. It scrolls with what it stands in. */
export function Windowed<T>({ items, keyOf, row, render, label }: Props<T>) {
  const list = useRef<HTMLUListElement>(null);
  const [range, setRange] = useState({ from: 0, to: 30 });
  useLayoutEffect(() => {
    const scroller = scrollerOf(list.current);
    if (scroller === null) return;
    const look = () => {
      if (list.current === null) return;
      const height = row * parseFloat(getComputedStyle(document.documentElement).fontSize);
      const above = scroller.getBoundingClientRect().top - list.current.getBoundingClientRect().top;
      const from = Math.max(Math.floor(above / height) - AHEAD, 0);
      const to = Math.max(Math.ceil((above + scroller.clientHeight) / height) + AHEAD, 0);
      setRange((known) => (known.from === from && known.to === to ? known : { from, to }));
    };
    look();
    const resized = new ResizeObserver(look);
    resized.observe(scroller);
    scroller.addEventListener("scroll", look, { passive: true });
    return () => {
      resized.disconnect();
      scroller.removeEventListener("scroll", look);
    };
  }, [items.length, row]);
  const seen = items.slice(range.from, range.to);
  return (
    <ul ref={list} class="windowed" role="list" aria-label={label} style={{ height: `${items.length * row}rem` }}>
      {seen.map((item, at) => (
        <li
          key={keyOf(item)}
          aria-setsize={items.length}
          aria-posinset={range.from + at + 1}
          style={{ top: `${(range.from + at) * row}rem`, height: `${row}rem` }}
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
