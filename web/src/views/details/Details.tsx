import type { Room } from "../../model/room.ts";

/** The panel with the members, settings and invitations of a room. */
export function Details({ room }: { room: Room }) {
  return <aside aria-label={`Details of ${room.name.value}`}>{room.joinedCount.value}</aside>;
}
