import { useState } from "preact/hooks";
import { stateEventText } from "../../../model/timeline/stateEventText.ts";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { exactTime, timeOfDay } from "../../components/formatTime.ts";
import { useRoomContext } from "../roomContext.ts";

/** This many changes in a row are folded together. */
const MIN_FOLDED_CHANGES = 4;
const MAX_SHOWN_CHANGES = 200;

/** State changes of the room, in small lines. `count` makes the view update when changes are added to the list. */
export function StateChanges({ events, count }: { events: TimelineEvent[]; count: number }) {
  const { room } = useRoomContext();
  const [isOpen, setOpen] = useState(false);
  room.membersChanged.value;
  const nameOf = (userId: string) => room.memberName(userId);
  const lines = isOpen || count < MIN_FOLDED_CHANGES ? events.slice(-MAX_SHOWN_CHANGES) : [];
  return (
    <div class="changes">
      {count >= MIN_FOLDED_CHANGES && (
        <button type="button" class="fold" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {summary(events, nameOf)}
        </button>
      )}
      {lines.map((event) => (
        <p key={event.key} class="change">
          <span dir="auto">{stateEventText(event, nameOf)}</span>{" "}
          <time dateTime={new Date(event.time).toISOString()} title={exactTime(event.time)}>
            {timeOfDay(event.time)}
          </time>
        </p>
      ))}
    </div>
  );
}

/** Summarises many changes in one line. */
function summary(events: TimelineEvent[], nameOf: (userId: string) => string): string {
  const joined = events.filter(({ raw }) => raw.type === "m.room.member" && raw.content["membership"] === "join");
  if (joined.length === events.length) {
    const names = [...new Set(joined.map(({ raw }) => nameOf(raw.state_key ?? "")))];
    const [first, second] = names;
    if (names.length > 2) return `${first}, ${second} and ${names.length - 2} more joined`;
  }
  const created = events[0]?.raw.type === "m.room.create" ? events[0] : undefined;
  if (created !== undefined) return `${nameOf(created.sender)} created this room and set it up`;
  return `${events.length} changes to the room`;
}
