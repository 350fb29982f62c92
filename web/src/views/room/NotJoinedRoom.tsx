import type { Room } from "../../model/rooms/room.ts";
import { routeHref } from "../../model/route.ts";
import { asString } from "../../model/server/events.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { attempt } from "../components/Toasts.tsx";
import { conversationOf } from "./roomContext.ts";

/** A room that the user has left or was removed from, or is waiting to enter. */
export function NotJoinedRoom({ room }: { room: Room }) {
  const client = useClient();
  const own = room.ownMember.value;
  const by = own === undefined || own.sender === client.me ? null : room.memberName(own.sender);
  const reason = asString(own?.content["reason"]);
  const membership = room.membership.value;
  const isOpen = room.joinRule.value === "public" && membership === "leave";
  return (
    <div class="empty">
      <Avatar id={room.id} name={room.name.value} mxc={room.avatar.value} size="large" square={room.directWith.value === null} />
      <h1 dir="auto">{room.name.value}</h1>
      <p>{membershipText(membership, by)}</p>
      {reason !== undefined && by !== null && <blockquote dir="auto">{reason}</blockquote>}
      <div class="row">
        {isOpen && (
          <button type="button" class="button primary" onClick={() => void attempt(async () => conversationOf(client, room).rejoin())}>
            Join again
          </button>
        )}
        <a class="button" href={routeHref({ at: "home" })}>
          Back to my conversations
        </a>
      </div>
    </div>
  );
}

function membershipText(membership: string, by: string | null): string {
  if (membership === "knock") return "You asked to join. As soon as someone lets you in, the conversation appears here.";
  if (membership === "ban") return by === null ? "You are banned from this room." : `${by} banned you from this room.`;
  return by === null ? "You left this room." : `${by} removed you from this room.`;
}
