import { useEffect, useState } from "preact/hooks";
import { isVisibleMessage } from "../../model/rooms/room.ts";
import type { RawEvent } from "../../model/server/events.ts";
import { relationOf } from "../../model/server/events.ts";
import { TimelineEvent } from "../../model/timeline/timeline.ts";
import { useClient } from "../clientContext.ts";
import { plainText } from "./message/plainText.ts";
import { useRoomContext } from "./roomContext.ts";

/** Announces new messages to screen readers while the page is visible. */
export function NewMessageAnnouncer() {
  const { room } = useRoomContext();
  const { me } = useClient();
  const [announcement, setAnnouncement] = useState("");
  useEffect(() => {
    const listener = (raw: RawEvent) => {
      if (raw.sender === me || !isVisibleMessage(raw) || document.visibilityState !== "visible") return;
      if (relationOf(raw.content).type === "m.replace") return;
      setAnnouncement(`${room.memberName(raw.sender)}: ${plainText(new TimelineEvent(raw))}`);
    };
    room.timeline.newEventListeners.add(listener);
    return () => {
      room.timeline.newEventListeners.delete(listener);
    };
  }, [room]);
  return (
    <div class="visually-hidden" role="status" aria-live="polite" aria-label="New messages">
      {announcement}
    </div>
  );
}
