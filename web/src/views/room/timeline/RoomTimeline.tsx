import { useEffect, useRef, useState } from "preact/hooks";
import type { Room } from "../../../model/rooms/room.ts";
import { messageOf } from "../../../model/server/api.ts";
import { useClient } from "../../clientContext.ts";
import { attempt } from "../../components/Toasts.tsx";
import { useRoomContext } from "../roomContext.ts";
import { MessageList } from "./MessageList.tsx";
import { TimelineStart } from "./TimelineStart.tsx";
import { usePageFocus } from "./usePageFocus.ts";

/** The most pages to load in search of the first unread message. */
const MAX_UNREAD_PAGES = 4;

/** The messages of the room, without those in threads. */
export function RoomTimeline() {
  const { room, conversation } = useRoomContext();
  const { connection } = useClient();
  const timeline = conversation.timeline.value;
  const isLive = conversation.isLive;
  room.timeline.changed.value;
  room.timeline.resets.value;
  const [readUpTo, setReadUpTo] = useState<number | null | undefined>(undefined);
  const [problem, setProblem] = useState<string | null>(null);
  const isAtEnd = useRef(false);

  useEffect(() => {
    void findUnread(room).then((order) => setReadUpTo(order));
  }, [room]);
  const readIfSeen = () => {
    if (isAtEnd.current && isPageFocused()) conversation.readReceipts.markSeen();
  };
  usePageFocus(readIfSeen, () => {
    // Messages that arrive while the page is in the background are unread when the user comes back.
    const last = room.timeline.last?.order;
    if (isAtEnd.current && last !== undefined) setReadUpTo(last);
  });

  // After a failure the user tries again, or the next connection does.
  useEffect(() => setProblem(null), [connection.state.value]);
  const load = (work: () => Promise<void>) => () => void work().catch((error: unknown) => setProblem(messageOf(error)));
  const loadBack = load(async () => timeline.loadBack());
  const pending = isLive ? room.timeline.pending.filter(({ relation }) => relation.type !== "m.thread") : [];
  return (
    <MessageList
      timeline={timeline}
      pending={usePendingList(pending)}
      isLive={isLive}
      label="Messages"
      readUpTo={readUpTo ?? null}
      isReady={readUpTo !== undefined}
      target={conversation.target.value}
      loadBack={timeline.canGoBack && problem === null ? loadBack : null}
      loadForward={timeline.canGoForward && problem === null ? load(async () => conversation.loadForward()) : null}
      onNewest={() => {
        setReadUpTo(null);
        conversation.goToNewest();
      }}
      onEnd={(atEnd) => {
        isAtEnd.current = atEnd;
        readIfSeen();
      }}
      beginning={
        <TimelineStart
          isLoading={timeline.canGoBack}
          problem={problem}
          onRetry={() => {
            setProblem(null);
            void attempt(async () => timeline.loadBack());
          }}
        />
      }
    />
  );
}

/** Returns the same array as long as its messages are the same. */
export function usePendingList<T>(pending: T[]): T[] {
  const stable = useRef(pending);
  if (stable.current.length !== pending.length || pending.some((event, at) => event !== stable.current[at])) stable.current = pending;
  return stable.current;
}

function isPageFocused(): boolean {
  return document.visibilityState === "visible" && document.hasFocus();
}

/** Returns the order of the last event that was read, if there are newer ones; null otherwise. */
async function findUnread(room: Room): Promise<number | null> {
  const eventId = room.fullyRead.peek();
  if (eventId === null) return null;
  try {
    for (let page = 0; page < MAX_UNREAD_PAGES && room.unread.peek().count > 0; page++) {
      if (room.timeline.get(eventId) !== undefined || !room.timeline.canGoBack) break;
      await room.timeline.loadBack();
    }
  } catch {
    // The view starts at the newest message; the list shows that there is no connection.
  }
  return room.timeline.get(eventId)?.order ?? null;
}
