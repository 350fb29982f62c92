import { relationOf } from "../../../model/server/events.ts";
import { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { shortTime } from "../../components/formatTime.ts";
import { Icon } from "../../components/Icon.tsx";
import { sidePanel } from "../../sidePanel.ts";
import { useRoomContext } from "../roomContext.ts";
import { plainText } from "./plainText.ts";

/** The number of replies in a thread and the latest one, under its root. */
export function ThreadChip({ event }: { event: TimelineEvent }) {
  const { room, thread } = useRoomContext();
  event.changed.value;
  if (event.thread === null || event.thread.count === 0 || thread !== undefined) return null;
  const { count, latest } = event.thread;
  const isOpen = sidePanel.value?.show === "thread" && sidePanel.value.root === event.id;
  return (
    <button type="button" class="thread-chip" aria-expanded={isOpen} onClick={() => (sidePanel.value = isOpen ? null : { show: "thread", root: event.id })}>
      <Icon name="thread" />
      <span class="thread-count">{count === 1 ? "1 reply" : `${count} replies`}</span>
      {latest !== null && relationOf(latest.content).type !== undefined && (
        <span class="thread-latest ellipsis">
          <bdi>{room.memberName(latest.sender)}</bdi>: <bdi>{plainText(new TimelineEvent(latest)).slice(0, 100)}</bdi>
        </span>
      )}
      {latest !== null && <time class="thread-time">{shortTime(latest.origin_server_ts)}</time>}
    </button>
  );
}
