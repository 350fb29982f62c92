import { useState } from "preact/hooks";
import type { FoundUser } from "../../model/people/userSearch.ts";
import type { Room } from "../../model/rooms/room.ts";
import { type ExpiryChoice, expiresAt } from "../../model/server/parlourApi.ts";
import { useClient } from "../clientContext.ts";
import { Form } from "../components/Form.tsx";
import { PeoplePicker } from "../components/PeoplePicker.tsx";
import { showToast } from "../components/Toasts.tsx";
import { ExpiryField } from "./ExpiryField.tsx";

/** Invites users by name, with or without an expiry time. */
export function InvitePeople({ room, onDone }: { room: Room; onDone: () => void }) {
  const { roomAdministration } = useClient();
  const [chosen, setChosen] = useState<FoundUser[]>([]);
  const [expiry, setExpiry] = useState<ExpiryChoice>("never");
  const isThere = (userId: string) => ["join", "invite", "ban"].includes(room.members.get(userId)?.membership ?? "");
  const invite = async (data: FormData) => {
    const until = expiresAt(expiry, String(data.get("until") ?? ""));
    for (const person of [...chosen]) {
      await roomAdministration.invite(room.id, [person.id], until);
      // If an invitation fails, those before it were sent.
      setChosen((rest) => rest.filter((other) => other.id !== person.id));
    }
    showToast(chosen.length === 1 ? `${chosen[0]!.name} has been invited.` : `${chosen.length} people have been invited.`);
    onDone();
  };
  const submit = chosen.length > 1 ? `Invite ${chosen.length} people` : "Send invitation";
  return (
    <div class="invite-panel">
      <Form onSubmit={invite} submit={submit} disabled={chosen.length === 0}>
        <PeoplePicker label="People to invite" chosen={chosen} onChange={setChosen} isExcluded={isThere} />
        <ExpiryField label="Invitation expires" value={expiry} onChange={setExpiry} />
      </Form>
    </div>
  );
}
