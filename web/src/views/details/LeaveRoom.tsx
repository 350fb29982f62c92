import type { Room } from "../../model/rooms/room.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { navigate } from "../currentRoute.ts";
import { sidePanel } from "../sidePanel.ts";

export function LeaveRoom({ room, onClose }: { room: Room; onClose: () => void }) {
  const { roomAdministration } = useClient();
  const leave = async () => {
    await roomAdministration.leave(room.id);
    sidePanel.value = null;
    navigate({ at: "home" }, true);
  };
  return (
    <ConfirmDialog title="Leave this room?" submit="Leave" danger onConfirm={leave} onClose={onClose}>
      <p>
        You leave <strong dir="auto">{room.name}</strong> and no longer see what is written there.{" "}
        {room.joinRule.value !== "public" && "To come back you need an invitation."}
        {room.joinedCount.value === 1 && " You are the last one: nobody could come in again."}
      </p>
    </ConfirmDialog>
  );
}
