import { useChat } from "../context.ts";
import { Details } from "../details/Details.tsx";
import { panel } from "../panel.ts";

export function RoomPage({ id }: { id: string; event?: string | undefined }) {
  const { rooms } = useChat();
  rooms.changed.value;
  const room = rooms.get(id);
  if (room === undefined) return <div class="empty">{rooms.ready.value ? "There is no such room." : null}</div>;
  return (
    <>
      <h1>{room.name}</h1>
      {panel.value?.show === "details" && <Details room={room} />}
    </>
  );
}
