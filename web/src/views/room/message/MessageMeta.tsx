import { useComputed } from "@preact/signals";
import { useState } from "preact/hooks";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { useChat } from "../../clientContext.ts";
import { exactTime, timeOfDay } from "../../components/formatTime.ts";
import { Icon } from "../../components/Icon.tsx";
import { usePlace } from "../roomContext.ts";

/** When a message was said, whether it was changed, and for own ones how far it came. */
export function Meta({ event }: { event: TimelineEvent }) {
  const { me } = useChat();
  event.changed.value;
  return (
    <span class="meta">
      {event.isEdited && <span title={`Edited ${exactTime(event.edit!.origin_server_ts)}`}>edited</span>}
      <time dateTime={new Date(event.time).toISOString()} title={exactTime(event.time)}>
        {timeOfDay(event.time)}
      </time>
      {event.sender === me && !event.isRedacted && <Status event={event} />}
    </span>
  );
}

function Status({ event }: { event: TimelineEvent }) {
  const state = event.pendingEdit?.sendState ?? event.sendState;
  if (state === "failed") return <Mark icon="warning" label="Not sent" danger />;
  if (state === "sending" || !event.isStored) return <Mark icon="clock" label="Sending" />;
  return <ReadMark eventId={event.id} />;
}

function ReadMark({ eventId }: { eventId: string }) {
  const { room, conversation } = usePlace();
  const [asked, setAsked] = useState(false);
  // The mark is drawn again only when the number changes.
  const count = useComputed(() => conversation.readReceipts.readersOf(eventId).length).value;
  if (count === 0) return <Mark icon="check" label="Sent" />;
  const names = () => {
    const readers = conversation.readReceipts.readersOf(eventId).map((userId) => room.memberName(userId));
    const shown = readers.slice(0, 10).join(", ");
    return readers.length > 10 ? `Read by ${shown} and ${readers.length - 10} more` : `Read by ${shown}`;
  };
  return (
    <span class="mark read" role="img" aria-label={names()} title={asked ? names() : undefined} onPointerEnter={() => setAsked(true)}>
      <Icon name="checks" />
    </span>
  );
}

function Mark({ icon, label, danger = false }: { icon: "check" | "clock" | "warning"; label: string; danger?: boolean }) {
  return (
    <span class={`mark${danger ? " failed" : ""}`} role="img" aria-label={label} title={label}>
      <Icon name={icon} />
    </span>
  );
}
