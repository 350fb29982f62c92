import { useComputed } from "@preact/signals";
import { useState } from "preact/hooks";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { useClient } from "../../clientContext.ts";
import { exactTime, timeOfDay } from "../../components/formatTime.ts";
import { Icon } from "../../components/Icon.tsx";
import { useRoomContext } from "../roomContext.ts";

/** The time of a message, whether it was edited, and the status of the user's own messages. */
export function MessageMeta({ event }: { event: TimelineEvent }) {
  const { me } = useClient();
  event.changed.value;
  return (
    <span class="meta">
      {event.isEdited && <span title={`Edited ${exactTime(event.edit!.origin_server_ts)}`}>edited</span>}
      <time dateTime={new Date(event.time).toISOString()} title={exactTime(event.time)}>
        {timeOfDay(event.time)}
      </time>
      {event.sender === me && !event.isRedacted && <SendStatus event={event} />}
    </span>
  );
}

function SendStatus({ event }: { event: TimelineEvent }) {
  const state = event.pendingEdit?.sendState ?? event.sendState;
  if (state === "failed") return <StatusMark icon="warning" label="Not sent" danger />;
  if (state === "sending" || !event.isStored) return <StatusMark icon="clock" label="Sending" />;
  return <ReadMark eventId={event.id} />;
}

function ReadMark({ eventId }: { eventId: string }) {
  const { room, conversation } = useRoomContext();
  const [isHovered, setHovered] = useState(false);
  // The mark is drawn again only when the number changes.
  const count = useComputed(() => conversation.readReceipts.readersOf(eventId).length).value;
  if (count === 0) return <StatusMark icon="check" label="Sent" />;
  const names = () => {
    const readers = conversation.readReceipts.readersOf(eventId).map((userId) => room.memberName(userId));
    const shown = readers.slice(0, 10).join(", ");
    return readers.length > 10 ? `Read by ${shown} and ${readers.length - 10} more` : `Read by ${shown}`;
  };
  return (
    <span class="mark read" role="img" aria-label={names()} title={isHovered ? names() : undefined} onPointerEnter={() => setHovered(true)}>
      <Icon name="checks" />
    </span>
  );
}

function StatusMark({ icon, label, danger = false }: { icon: "check" | "clock" | "warning"; label: string; danger?: boolean }) {
  return (
    <span class={`mark${danger ? " failed" : ""}`} role="img" aria-label={label} title={label}>
      <Icon name={icon} />
    </span>
  );
}
