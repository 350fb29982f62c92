import { useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { Field } from "../components/Form.tsx";
import { showToast } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";
import { sidePanel } from "../sidePanel.ts";

/** Deletes a room for everyone. The user must type its name, because this cannot be undone. */
export function DeleteRoom({ room, onClose }: { room: Room; onClose: () => void }) {
  const { parlourApi } = useClient();
  const [typed, setTyped] = useState("");
  const [name] = useState(room.name.peek());
  const remove = async (data: FormData) => {
    const reason = String(data.get("reason")).trim();
    await parlourApi.deleteRoom(room.id, reason === "" ? undefined : reason);
    sidePanel.value = null;
    navigate({ at: "home" }, true);
    showToast("The room has been deleted.");
  };
  return (
    <ConfirmDialog title="Delete this room?" submit="Delete room" danger disabled={typed.trim() !== name.trim()} onConfirm={remove} onClose={onClose}>
      <p>
        Everyone is removed from <strong dir="auto">{name}</strong>, its addresses are removed, and all messages are deleted from this server. This cannot be
        undone.
      </p>
      <Field
        label="Type the room's name to continue"
        name="name"
        dir="auto"
        autocomplete="off"
        placeholder={name}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      <Field label="Reason (optional)" name="reason" dir="auto" autocomplete="off" />
    </ConfirmDialog>
  );
}
