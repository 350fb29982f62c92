import { useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { CopyButton } from "../components/CopyButton.tsx";
import { Icon } from "../components/Icon.tsx";
import { presenceText } from "../people/presenceText.ts";
import { EditRoom } from "./EditRoom.tsx";
import { InviteDialog } from "./InviteDialog.tsx";
import { LeaveRoom } from "./LeaveRoom.tsx";

/** The name and topic of a room, and the main actions. */
export function AboutRoom({ room, onMembers }: { room: Room; onMembers: () => void }) {
  const { me, presences } = useClient();
  const [open, setOpen] = useState<"edit" | "invite" | "leave" | null>(null);
  const close = () => setOpen(null);
  const powerLevels = room.powerLevels.value;
  const mayEdit = ["m.room.name", "m.room.topic", "m.room.avatar"].some((type) => powerLevels.maySend(me, type, true));
  const other = room.directWith.value;
  const count = room.joinedCount.value;
  return (
    <div class="about-room">
      <Avatar id={other ?? room.id} name={room.name.value} mxc={room.avatar.value} size="large" square={other === null} presenceOf={other ?? undefined} />
      <h3 class="about-name" dir="auto">
        {room.name}
      </h3>
      {room.alias.value !== undefined && (
        <p class="row about-alias">
          <span class="soft ellipsis">{room.alias}</span>
          <CopyButton text={room.alias.value} label="Copy the address" />
        </p>
      )}
      {other !== null && <p class="soft small-text">{presenceText(presences.get(other))}</p>}
      {room.topic.value !== undefined && (
        <p class="about-topic" dir="auto">
          {room.topic}
        </p>
      )}
      <div class="about-actions">
        {powerLevels.may(me, "invite") && (
          <button type="button" class="button primary wide" onClick={() => setOpen("invite")}>
            <Icon name="user-add" /> Invite people
          </button>
        )}
        {mayEdit && (
          <button type="button" class="button wide" onClick={() => setOpen("edit")}>
            <Icon name="edit" /> Edit room
          </button>
        )}
      </div>
      <div class="about-actions">
        <button type="button" class="about-row" onClick={onMembers}>
          <Icon name="people" /> Participants <span class="value">{count}</span>
        </button>
        <button type="button" class="about-row danger" onClick={() => setOpen("leave")}>
          <Icon name="door" /> Leave
        </button>
      </div>
      {open === "edit" && <EditRoom room={room} onClose={close} />}
      {open === "invite" && <InviteDialog room={room} onClose={close} />}
      {open === "leave" && <LeaveRoom room={room} onClose={close} />}
    </div>
  );
}
