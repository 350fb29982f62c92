import type { Room } from "../../model/room.ts";

/** What somebody sees who is invited to a room. */
export function Invitation({ room }: { room: Room }) {
  return (
    <div class="empty">
      <h1>{room.name.value}</h1>
      <p>You are invited.</p>
    </div>
  );
}
