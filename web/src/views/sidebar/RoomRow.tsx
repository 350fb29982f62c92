import type { Room } from "../../model/rooms/room.ts";
import { roomPreview, typingText } from "../../model/rooms/roomPreview.ts";
import { routeHref } from "../../model/route.ts";
import { roomNotificationLevel } from "../../model/settings/pushRules.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { shortTime } from "../components/formatTime.ts";
import { Icon } from "../components/Icon.tsx";
import { currentRoute } from "../currentRoute.ts";

/** A room in the list: name, last message and unread count. */
export function RoomRow({ room, draft }: { room: Room; draft: string | undefined }) {
  const { me, accountData } = useClient();
  const { count } = room.unread.value;
  const here = currentRoute.value.at === "room" && currentRoute.value.id === room.id;
  const muted = roomNotificationLevel(accountData.pushRules.value, room.id) === "mute";
  const other = room.directWith.value;
  return (
    <a class={`room-row${count > 0 ? " unread" : ""}`} href={routeHref({ at: "room", id: room.id })} aria-current={here ? "page" : undefined}>
      <Avatar id={other ?? room.id} name={room.name.value} mxc={room.avatar.value} square={other === null} presenceOf={other ?? undefined} />
      <span class="room-text">
        <span class="room-line">
          <span class="room-name ellipsis grow" dir="auto">
            {room.name}
          </span>
          {muted && <MutedMark />}
          {room.activity.value > 0 && <time class="room-time">{shortTime(room.activity.value)}</time>}
        </span>
        <span class="room-line">
          <RoomRowPreview room={room} me={me} draft={here ? undefined : draft} />
          <UnreadBadge room={room} />
        </span>
      </span>
    </a>
  );
}

function RoomRowPreview({ room, me, draft }: { room: Room; me: string; draft: string | undefined }) {
  const typing = typingText(room);
  if (typing !== null) return <span class="room-preview typing ellipsis grow">{typing}</span>;
  if (draft !== undefined) {
    return (
      <span class="room-preview ellipsis grow" dir="auto">
        <span class="room-draft">Draft:</span> {draft}
      </span>
    );
  }
  room.timeline.changed.value;
  room.preview.value?.changed.value;
  return (
    <span class="room-preview ellipsis grow" dir="auto">
      {roomPreview(room, me)}
    </span>
  );
}

function UnreadBadge({ room }: { room: Room }) {
  const { count, highlights } = room.unread.value;
  if (count === 0) return null;
  const what = highlights > 0 ? `${count} unread, you are mentioned` : `${count} unread`;
  return (
    <span class={`badge${highlights > 0 ? " highlight" : ""}`}>
      <span aria-hidden="true">{count > 99 ? "99+" : count}</span>
      <span class="visually-hidden">{what}</span>
    </span>
  );
}

function MutedMark() {
  return (
    <span class="room-muted">
      <Icon name="bell-off" />
      <span class="visually-hidden">muted</span>
    </span>
  );
}
