import type { Room } from "../../model/rooms/room.ts";
import { useChat } from "../clientContext.ts";
import { Confirm } from "../components/ConfirmDialog.tsx";
import { go } from "../currentRoute.ts";
import { panel } from "../sidePanel.ts";

export function LeaveRoom({ room, onClose }: { room: Room; onClose: () => void }) {
  const { roomAdministration } = useChat();
  const leave = async () => {
    await roomAdministration.leave(room.id);
    panel.value = null;
    go({ at: "home" }, true);
  };
  return (
    <Confirm title="Leave this room?" submit="Leave" danger onConfirm={leave} onClose={onClose}>
      <p>
        You leave <strong dir="auto">{room.name}</strong> and no longer see what is written there.{" "}
        {room.joinRule.value !== "public" && "To come back you need an invitation."}
        {room.joinedCount.value === 1 && " You are the last one: nobody could come in again."}
      </p>
    </Confirm>
  );
}
