import { useEffect, useRef, useState } from "preact/hooks";
import { bodyText } from "../../../model/composing/messageContent.ts";
import type { TimelineEvent } from "../../../model/timeline/timeline.ts";
import { useClient } from "../../clientContext.ts";
import { Dialog } from "../../components/Dialog.tsx";
import { Form } from "../../components/Form.tsx";
import { IconButton } from "../../components/IconButton.tsx";
import { Menu, type MenuItem } from "../../components/Menu.tsx";
import { attempt, showToast } from "../../components/Toasts.tsx";
import { sidePanel } from "../../sidePanel.ts";
import { EmojiButton } from "../emoji/EmojiButton.tsx";
import { useRoomContext } from "../roomContext.ts";

/** The toolbar and menu of a message. */
export function MessageActions({ event, menuRequests }: { event: TimelineEvent; menuRequests: number }) {
  const { room, conversation, composer, thread } = useRoomContext();
  const { me } = useClient();
  const [deleting, setDeleting] = useState(false);
  const bar = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (menuRequests > 0) bar.current?.querySelector<HTMLElement>("[aria-haspopup=menu]")?.click();
  }, [menuRequests]);

  const powerLevels = room.powerLevels.value;
  const maySend = powerLevels.maySend(me, "m.room.message") && !room.encrypted.value && room.successor.value === undefined;
  const mayDelete = event.sender === me ? powerLevels.maySend(me, "m.room.redaction") : powerLevels.may(me, "redact");
  const mayEdit = maySend && composer.mayEdit(event);
  const body = bodyText(event.content);

  const items: MenuItem[] = [];
  if (maySend) items.push({ label: "Reply", icon: "reply", action: () => composer.startReply(event) });
  if (thread === undefined && !event.isEncrypted)
    items.push({ label: "Open thread", icon: "thread", action: () => (sidePanel.value = { show: "thread", root: event.id }) });
  if (mayEdit) items.push({ label: "Edit", icon: "edit", action: () => composer.startEdit(event) });
  if (body !== "") items.push({ label: "Copy text", icon: "copy", action: () => void copy(body) });
  if (mayDelete) items.push({ label: "Delete", icon: "trash", danger: true, action: () => setDeleting(true) });
  return (
    <div ref={bar} class="actions" role="toolbar" aria-label="Message actions">
      {maySend && <EmojiButton label="React" onChoose={(emoji) => void attempt(async () => conversation.react(event, emoji))} />}
      {maySend && <IconButton icon="reply" label="Reply" onClick={() => composer.startReply(event)} />}
      {mayEdit && <IconButton icon="edit" label="Edit" onClick={() => composer.startEdit(event)} />}
      {items.length > 0 && <Menu label="More" items={items} />}
      {deleting && (
        <Dialog title="Delete this message?" onClose={() => setDeleting(false)}>
          <Form
            submit="Delete"
            danger
            onSubmit={async () => {
              await conversation.deleteMessage(event);
              setDeleting(false);
            }}
          >
            <p>{event.sender === me ? "It is removed for everyone." : `The message of ${room.memberName(event.sender)} is removed for everyone.`}</p>
          </Form>
        </Dialog>
      )}
    </div>
  );
}

async function copy(text: string): Promise<void> {
  await attempt(async () => navigator.clipboard.writeText(text).then(() => showToast("Copied.")));
}
