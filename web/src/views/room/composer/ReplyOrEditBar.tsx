import { Icon } from "../../components/Icon.tsx";
import { IconButton } from "../../components/IconButton.tsx";
import { QuotedText } from "../message/Quote.tsx";
import { useRoomContext } from "../roomContext.ts";

/** The message that is being replied to or edited. */
export function ReplyOrEditBar() {
  const { composer, conversation } = useRoomContext();
  const { editing, replyTo } = composer.draft.value;
  const eventId = editing ?? replyTo;
  if (eventId === null) return null;
  const event = composer.findEvent(eventId) ?? conversation.quotedEvent(eventId).value;
  const label = editing === null ? "Reply to" : "Edit message";
  return (
    <div class="about-bar" role="group" aria-label={label}>
      <Icon name={editing === null ? "reply" : "edit"} />
      <div class="about-text">
        {editing !== null && <span class="quoted-name">Edit message</span>}
        {event !== undefined && event !== null && <QuotedText event={event} />}
      </div>
      <IconButton icon="close" label={editing === null ? "Cancel reply" : "Cancel edit"} onClick={() => composer.cancel()} />
    </div>
  );
}
