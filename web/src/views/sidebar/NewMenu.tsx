import { useState } from "preact/hooks";
import { Menu } from "../components/Menu.tsx";
import { CreateRoom } from "../explore/CreateRoom.tsx";
import { NewChat } from "../people/NewChat.tsx";

/** The menu that starts a conversation. */
export function NewMenu() {
  const [open, setOpen] = useState<"chat" | "room" | null>(null);
  const close = () => setOpen(null);
  return (
    <>
      <Menu
        label="New conversation"
        icon="add"
        items={[
          { label: "New chat", icon: "user-add", action: () => setOpen("chat") },
          { label: "New room", icon: "hash", action: () => setOpen("room") },
        ]}
      />
      {open === "chat" && <NewChat onClose={close} />}
      {open === "room" && <CreateRoom onClose={close} />}
    </>
  );
}
