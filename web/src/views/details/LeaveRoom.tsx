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
        You will leave <strong dir="auto">{room.name}</strong> and will no longer see new messages.{" "}
        {room.joinRule.value !== "public" && "To come back you need an invitation."}
        {room.joinedCount.value === 1 && " You are the last member: no one could join again."}
      </p>
    </ConfirmDialog>
  );
}
