import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { hueOf } from "../../components/Avatar.tsx";
import { useRoomContext } from "../roomContext.ts";
import { plainText } from "./plainText.ts";

/** The message that is replied to, shortened. A click goes to it. */
export function Quote({ eventId }: { eventId: string }) {
  const { conversation, goTo } = useRoomContext();
  const event = conversation.quotedEvent(eventId).value;
  if (event === undefined || event === null) {
    return <span class="quote">{event === null ? "The original message cannot be shown." : "…"}</span>;
  }
  return (
    <button type="button" class="quote" onClick={() => goTo(eventId)}>
      <span class="visually-hidden">In reply to: </span>
      <QuotedText event={event} />
    </button>
  );
}

export function QuotedText({ event }: { event: TimelineEvent }) {
  const { room } = useRoomContext();
  event.changed.value;
  room.membersChanged.value;
  return (
    <>
      <bdi class={`quoted-name name-${hueOf(event.sender)}`}>{room.memberName(event.sender)}</bdi>
      <span class="quoted-text" dir="auto">
        {plainText(event).slice(0, 300)}
      </span>
    </>
  );
}
