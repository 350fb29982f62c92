import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { useClient } from "../../clientContext.ts";
import { attempt } from "../../components/Toasts.tsx";
import { useRoomContext } from "../roomContext.ts";

const MAX_REACTIONS = 30;

export function Reactions({ event }: { event: TimelineEvent }) {
  const { room, conversation } = useRoomContext();
  const { me } = useClient();
  event.changed.value;
  if (event.reactions.size === 0) return null;
  return (
    <ul class="reactions" aria-label="Reactions">
      {[...event.reactions].slice(0, MAX_REACTIONS).map(([key, senders]) => {
        const names = [...senders.keys()].slice(0, 20).map((userId) => (userId === me ? "you" : room.memberName(userId)));
        const said = `${key}: ${names.join(", ")}`;
        return (
          <li key={key}>
            <button
              type="button"
              class="reaction"
              aria-pressed={senders.has(me)}
              aria-label={`${said}. ${senders.size}`}
              title={said}
              onClick={() => void attempt(async () => conversation.react(event, key))}
            >
              <span class="reaction-key">{key.slice(0, 20)}</span>
              {senders.size}
            </button>
          </li>
        );
      })}
    </ul>
  );
}
