import { useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { invitationExpiry } from "../../model/rooms/roomAdministration.ts";
import { isDirectInvitation } from "../../model/rooms/roomEntry.ts";
import { routeHref } from "../../model/route.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { relativeTime } from "../components/formatTime.ts";
import { IconButton } from "../components/IconButton.tsx";
import { attempt } from "../components/Toasts.tsx";
import { currentRoute, navigate } from "../currentRoute.ts";

/** The rooms to which the user is invited, with buttons to answer. */
export function Invitations() {
  const { rooms } = useClient();
  const invitations = rooms.invitations.value;
  if (invitations.length === 0) return null;
  return (
    <section class="invitations" aria-labelledby="invitations">
      <h2 id="invitations" class="section-name">
        Invitations <span class="badge highlight">{invitations.length}</span>
      </h2>
      <ul role="list">
        {invitations.map((room) => (
          <InvitationRow key={room.id} room={room} />
        ))}
      </ul>
    </section>
  );
}

function InvitationRow({ room }: { room: Room }) {
  const { roomEntry, roomAdministration } = useClient();
  const [busy, setBusy] = useState(false);
  const inviter = room.ownMember.value?.sender;
  const ends = invitationExpiry(room, room.me);
  const answer = async (work: () => Promise<unknown>) => {
    setBusy(true);
    await attempt(work);
    setBusy(false);
  };
  const accept = async () => navigate({ at: "room", id: await roomEntry.acceptInvitation(room) });
  const here = currentRoute.value.at === "room" && currentRoute.value.id === room.id;
  const by = inviter === undefined ? "" : room.memberName(inviter);
  return (
    <li class="invited-row">
      <a class="room-row" href={routeHref({ at: "room", id: room.id })} aria-current={here ? "page" : undefined}>
        <Avatar id={room.id} name={room.name.value} mxc={room.avatar.value} square={!isDirectInvitation(room)} />
        <span class="room-text">
          <span class="room-name ellipsis" dir="auto">
            {room.name}
          </span>
          <span class="room-preview ellipsis" dir="auto">
            {ends === undefined ? `${by} invites you` : `${by} · expires ${relativeTime(ends)}`}
          </span>
        </span>
      </a>
      <IconButton icon="check" label={`Accept: ${room.name.value}`} disabled={busy} onClick={() => void answer(accept)} />
      <IconButton
        icon="close"
        label={`Decline: ${room.name.value}`}
        disabled={busy}
        onClick={() => void answer(async () => roomAdministration.leave(room.id))}
      />
    </li>
  );
}
