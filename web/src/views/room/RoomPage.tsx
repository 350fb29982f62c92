import { useChat } from "../context.ts";
import { Details } from "../details/Details.tsx";
import { Invitation } from "../invite/Invitation.tsx";
import { panel } from "../panel.ts";

export function RoomPage({ id }: { id: string; event?: string | undefined }) {
  const { rooms } = useChat();
  rooms.changed.value;
  const room = rooms.get(id);
  if (room === undefined) return <div class="empty">{rooms.ready.value ? "There is no such room." : null}</div>;
  if (room.membership.value === "invite") return <Invitation room={room} />;
  return (
    <>
      <h1 class="grow">{room.name}</h1>
      <button type="button" class="button" onClick={() => (panel.value = panel.value === null ? { show: "details" } : null)}>
        Details
      </button>
      {panel.value?.show === "details" && <Details room={room} />}
    </>
  );
}
