import "./Invitation.css";
import { useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { invitationExpiry } from "../../model/rooms/roomAdministration.ts";
import { isDirectInvitation } from "../../model/rooms/roomEntry.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { exactTime, relativeTime } from "../components/formatTime.ts";
import { Icon } from "../components/Icon.tsx";
import { BackLink } from "../components/Page.tsx";
import { attempt } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";

/** Replaces the conversation in a room to which the user is invited. */
export function Invitation({ room }: { room: Room }) {
  const { roomEntry, roomAdministration } = useClient();
  const [busy, setBusy] = useState(false);
  const own = room.ownMember.value;
  const inviter = own?.sender ?? "";
  const ends = invitationExpiry(room, room.me);
  const answer = async (work: () => Promise<unknown>) => {
    setBusy(true);
    await attempt(work);
    setBusy(false);
  };
  const decline = async () => {
    await roomAdministration.leave(room.id);
    navigate({ at: "home" }, true);
  };
  const isDirect = isDirectInvitation(room);
  return (
    <section class="invitation-page" aria-labelledby="invitation-title">
      <BackLink />
      <div class="invitation-card">
        <Avatar id={room.id} name={room.name.value} mxc={room.avatar.value} size="large" square={!isDirect} />
        <h1 id="invitation-title" dir="auto">
          {room.name}
        </h1>
        <p>
          <strong dir="auto">{room.memberName(inviter)}</strong> {isDirect ? "wants to chat with you" : "invites you to this room"}
        </p>
        <p class="soft small-text">{inviter}</p>
        {room.topic.value !== undefined && (
          <p class="soft" dir="auto">
            {room.topic}
          </p>
        )}
        {room.members.get(room.me)?.reason !== undefined && (
          <blockquote class="invitation-reason" dir="auto">
            {room.members.get(room.me)?.reason}
          </blockquote>
        )}
        {ends !== undefined && (
          <p class="invitation-ends" title={exactTime(ends)}>
            <Icon name="clock" /> This invitation expires {relativeTime(ends)}
          </p>
        )}
        <div class="invitation-answers">
          <button type="button" class="button" disabled={busy} onClick={() => void answer(decline)}>
            Decline
          </button>
          <button type="button" class="button primary" disabled={busy} onClick={() => void answer(async () => roomEntry.acceptInvitation(room))}>
            Accept
          </button>
        </div>
      </div>
    </section>
  );
}
