import { hrefOf } from "../../model/route.ts";
import { useChat } from "../context.ts";
import { Avatar } from "../parts/Avatar.tsx";

export function Sidebar() {
  const { rooms } = useChat();
  return (
    <nav class="sidebar" aria-label="Conversations">
      {rooms.joined.value.map((room) => (
        <a key={room.id} href={hrefOf({ at: "room", id: room.id })}>
          <Avatar id={room.id} name={room.name.value} mxc={room.avatar.value} square />
          {room.name}
        </a>
      ))}
    </nav>
  );
}
