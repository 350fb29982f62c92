import { useEffect, useState } from "preact/hooks";
import { isVisibleMessage } from "../../model/rooms/room.ts";
import type { RawEvent } from "../../model/server/events.ts";
import { relationOf } from "../../model/server/events.ts";
import { TimelineEvent } from "../../model/timeline/timeline.ts";
import { useChat } from "../clientContext.ts";
import { plainText } from "./message/plainText.ts";
import { usePlace } from "./roomContext.ts";

/** Tells screen readers of new messages, while the page is looked at. */
export function Announcer() {
  const { room } = usePlace();
  const { me } = useChat();
  const [said, setSaid] = useState("");
  useEffect(() => {
    const follower = (raw: RawEvent) => {
      if (raw.sender === me || !isVisibleMessage(raw) || document.visibilityState !== "visible") return;
      if (relationOf(raw.content).type === "m.replace") return;
      setSaid(`${room.memberName(raw.sender)}: ${plainText(new TimelineEvent(raw))}`);
    };
    room.timeline.newEventListeners.add(follower);
    return () => {
      room.timeline.newEventListeners.delete(follower);
    };
  }, [room]);
  return (
    <div class="visually-hidden" role="status" aria-live="polite" aria-label="New messages">
      {said}
    </div>
  );
}
