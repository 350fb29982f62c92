import { useState } from "preact/hooks";
import type { FoundUser } from "../../model/people/userSearch.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { PeoplePicker } from "../components/PeoplePicker.tsx";
import { navigate } from "../currentRoute.ts";

/** Starts a direct chat or opens the existing one. With several people it creates a room. */
export function NewChat({ onClose }: { onClose: () => void }) {
  const { roomEntry } = useClient();
  const [chosen, setChosen] = useState<FoundUser[]>([]);
  const begin = async () => {
    const [first] = chosen;
    if (first === undefined) return;
    const id =
      chosen.length === 1
        ? await roomEntry.directChatWith(first.id)
        : await roomEntry.createRoom({
            name: "",
            topic: "",
            isPublic: false,
            alias: "",
            historyVisibility: "shared",
            invite: chosen.map((person) => person.id),
          });
    navigate({ at: "room", id });
  };
  return (
    <ConfirmDialog
      title="New chat"
      submit={chosen.length > 1 ? "Start group chat" : "Start chat"}
      disabled={chosen.length === 0}
      onConfirm={begin}
      onClose={onClose}
    >
      <PeoplePicker label="People to chat with" chosen={chosen} onChange={setChosen} />
    </ConfirmDialog>
  );
}
