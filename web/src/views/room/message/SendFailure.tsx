import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { Icon } from "../../components/Icon.tsx";
import { useRoomContext } from "../roomContext.ts";

/** Why a message was not sent, with buttons to try again or to delete it. */
export function SendFailure({ event }: { event: TimelineEvent }) {
  const { conversation } = useRoomContext();
  return (
    <div class="failed-line" role="alert">
      <Icon name="warning" />
      <span>Not sent. {event.problem}</span>
      <button type="button" class="link-button" onClick={() => conversation.retry(event)}>
        Try again
      </button>
      <button type="button" class="link-button" onClick={() => conversation.discard(event)}>
        Delete
      </button>
    </div>
  );
}
