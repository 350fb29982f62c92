import "./RoomPage.css";
import { routeHref } from "../../model/route.ts";
import { useClient } from "../clientContext.ts";
import { Icon } from "../components/Icon.tsx";
import { Invitation } from "../invite/Invitation.tsx";
import { JoinedRoom } from "./JoinedRoom.tsx";
import { NotJoinedRoom } from "./NotJoinedRoom.tsx";

/** The view of a room, depending on the user's membership. */
export function RoomPage({ id, event }: { id: string; event?: string | undefined }) {
  const { rooms } = useClient();
  rooms.changed.value;
  const room = rooms.get(id);
  if (room === undefined) return rooms.isReady.value ? <NotFound /> : <Loading />;
  switch (room.membership.value) {
    case "join":
      return <JoinedRoom key={room.id} room={room} event={event} />;
    case "invite":
      return <Invitation room={room} />;
    default:
      return <NotJoinedRoom room={room} />;
  }
}

function Loading() {
  return (
    <div class="empty" role="status">
      <span class="spinner" />
      <p>Loading your conversations…</p>
    </div>
  );
}

function NotFound() {
  return (
    <div class="empty">
      <Icon name="compass" />
      <h1>There is no such room</h1>
      <p>It may have been deleted, or you are not in it.</p>
      <a class="button" href={routeHref({ at: "home" })}>
        Back to my conversations
      </a>
    </div>
  );
}
