import { useState } from "preact/hooks";
import type { Found } from "../../model/people/userSearch.ts";
import { useChat } from "../context.ts";
import { Confirm } from "../parts/Confirm.tsx";
import { PeoplePicker } from "../parts/PeoplePicker.tsx";
import { go } from "../routing.ts";

/** Begins a direct chat, or goes back to the one that there is; with several people it is a room. */
export function NewChat({ onClose }: { onClose: () => void }) {
  const { founding } = useChat();
  const [chosen, setChosen] = useState<Found[]>([]);
  const begin = async () => {
    const [first] = chosen;
    if (first === undefined) return;
    const id =
      chosen.length === 1
        ? await founding.direct(first.id)
        : await founding.create({ name: "", topic: "", isPublic: false, alias: "", historyVisibility: "shared", invite: chosen.map((person) => person.id) });
    go({ at: "room", id });
  };
  return (
    <Confirm title="New chat" submit={chosen.length > 1 ? "Start group chat" : "Start chat"} disabled={chosen.length === 0} onConfirm={begin} onClose={onClose}>
      <PeoplePicker label="With whom?" chosen={chosen} onChange={setChosen} />
    </Confirm>
  );
}
