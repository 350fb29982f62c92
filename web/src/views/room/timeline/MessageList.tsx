import "./MessageList.css";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { JumpTarget } from "../../../model/timeline/conversation.ts";
import type { Timeline, TimelineEvent } from "../../../model/timeline/timeline.ts";
import { buildRows, type TimelineRow } from "../../../model/timeline/timelineRows.ts";
import { useClient } from "../../clientContext.ts";
import { useRoomContext } from "../roomContext.ts";
import { JumpButton } from "./JumpButton.tsx";
import { TimelineRowView } from "./TimelineRowView.tsx";
import { useArrowKeys } from "./useArrowKeys.ts";
import { useVirtualRows } from "./useVirtualRows.ts";

interface Props {
  timeline: Timeline;
  /** Local echoes of messages that are being sent. */
  pending: TimelineEvent[];
  /** Whether the timeline reaches the newest event. */
  isLive: boolean;
  label: string;
  thread?: string;
  readUpTo?: number | null;
  /** Whether the start of the unread messages is known; nothing is scrolled before that. */
  isReady?: boolean;
  target?: JumpTarget | null;
  loadBack: (() => void) | null;
  loadForward?: (() => void) | null;
  onNewest?: () => void;
  /** Called with whether the newest event is in view. */
  onEnd?: (isAtEnd: boolean) => void;
  /** Shown above the first message. */
  beginning: ComponentChildren;
}

/** The messages of a room or of a thread. Only the rows around the visible ones are rendered. */
export function MessageList(props: Props) {
  const { timeline, pending, isLive, thread, readUpTo = null, isReady = true, target = null, onEnd } = props;
  const { me } = useClient();
  const context = useRoomContext();
  const version = timeline.changed.value;
  const rows = useMemo(() => buildRows([...timeline.events, ...pending], { me, thread, readUpTo }), [timeline, version, pending, pending.length, readUpTo]);
  const list = useVirtualRows(rows, {
    of: timeline,
    isNewest: isLive,
    loadBack: props.loadBack,
    loadForward: props.loadForward ?? null,
  });
  const { anchor } = list;
  const [current, setCurrent] = useState<string | null>(null);
  const [highlighted, setHighlighted] = useState<string | null>(null);
  const onKeyDown = useArrowKeys(list.content, () => context.composer.focusRequests.value++);

  // A row to scroll to, as soon as it is rendered.
  const pendingScroll = useRef<{ at: number; key: string; above: number; wasRendered: boolean; onShown: () => void } | null>(null);
  const hasStarted = useRef(false);
  useLayoutEffect(() => {
    if (isReady && !hasStarted.current && rows.length > 0) {
      hasStarted.current = true;
      // The view starts at the first unread message.
      const at = rows.findIndex(({ isUnread }) => isUnread);
      if (at !== -1 && target === null) pendingScroll.current = { at, key: rows[at]!.key, above: 0.15, wasRendered: false, onShown: () => {} };
    }
    const { current } = pendingScroll;
    if (current === null) return;
    if (anchor.scrollTo(current.key, current.above)) {
      pendingScroll.current = null;
      current.onShown();
      list.redraw();
    } else if (!current.wasRendered) {
      current.wasRendered = true;
      list.renderRow(current.at);
    } else {
      pendingScroll.current = null;
    }
  });

  useLayoutEffect(() => {
    if (target === null) return;
    const at = positionOf(rows, timeline.get(target.eventId)?.order);
    const row = rows[at];
    if (row === undefined) return;
    const onShown = () => {
      setHighlighted(row.key);
      setCurrent(row.key);
      anchor.findRow(row.key)?.querySelector<HTMLElement>("article")?.focus({ preventScroll: true });
    };
    pendingScroll.current = { at, key: row.key, above: 0.3, wasRendered: false, onShown };
    list.redraw();
  }, [target?.jump]);

  // Sending a message scrolls to the end.
  const newestPending = pending.findLast(({ relation }) => relation.type !== "m.replace")?.key;
  const lastPending = useRef(newestPending);
  useEffect(() => {
    if (newestPending === undefined || newestPending === lastPending.current) return;
    lastPending.current = newestPending;
    props.onNewest?.();
    list.toEnd();
  }, [newestPending]);

  // The scroll position is known only after the rows are laid out.
  const lastSeenOrder = useRef(-Infinity);
  useEffect(() => {
    const isAtEnd = anchor.followsEnd && isLive && isReady;
    if (isAtEnd) lastSeenOrder.current = rows.at(-1)?.last ?? -Infinity;
    onEnd?.(isAtEnd);
  });

  const currentKey =
    current !== null && list.shown.some(({ key }) => key === current) ? current : (list.shown.findLast(({ kind }) => kind === "message")?.key ?? null);
  return (
    <div class="message-list">
      <div class="scroller" ref={list.scroller}>
        <div
          class="content"
          ref={list.content}
          role="log"
          aria-live="off"
          aria-label={props.label}
          aria-busy={timeline.loadingBack.value}
          onKeyDown={onKeyDown}
          onFocusIn={(event) => setCurrent((event.target as Element).closest<HTMLElement>("[data-key]")?.dataset["key"] ?? null)}
        >
          <div class="beginning">{props.beginning}</div>
          {list.shown.map((row) => (
            <TimelineRowView key={row.key} row={row} isCurrent={row.key === currentKey} isHighlighted={row.key === highlighted} />
          ))}
        </div>
      </div>
      {!(anchor.followsEnd && isLive) && rows.length > 0 && (
        <JumpButton
          count={isLive ? newSince(rows, lastSeenOrder.current, me) : 0}
          onClick={() => {
            props.onNewest?.();
            list.toEnd();
          }}
        />
      )}
    </div>
  );
}

function positionOf(rows: TimelineRow[], order: number | undefined): number {
  if (order === undefined) return -1;
  const at = rows.findIndex(({ last }) => last >= order);
  return at === -1 ? rows.length - 1 : at;
}

/** Returns how many messages of others came since the end was in view. */
function newSince(rows: TimelineRow[], order: number, me: string): number {
  let count = 0;
  for (let at = rows.length - 1; at >= 0 && rows[at]!.last > order; at--) {
    const row = rows[at]!;
    if (row.kind === "message" && row.event.sender !== me) count += 1;
  }
  return count;
}
