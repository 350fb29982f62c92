import { useState } from "preact/hooks";
import type { FoundUser } from "../../model/people/userSearch.ts";
import { serverNameOf } from "../../model/server/matrixId.ts";
import { toUsername } from "../../model/session/authentication.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { Field } from "../components/Form.tsx";
import { PeoplePicker } from "../components/PeoplePicker.tsx";
import { Select } from "../components/Select.tsx";
import { navigate } from "../currentRoute.ts";
import { AliasField } from "./AliasField.tsx";

export const HISTORY_VISIBILITIES = [
  { value: "shared", label: "Members, the whole history" },
  { value: "invited", label: "Members, since they were invited" },
  { value: "joined", label: "Members, since they joined" },
  { value: "world_readable", label: "Everyone, without joining" },
];

/** A dialog that creates a room. */
export function CreateRoom({ onClose }: { onClose: () => void }) {
  const { roomEntry, me } = useClient();
  const [isPublic, setPublic] = useState(false);
  const [history, setHistory] = useState("shared");
  const [chosen, setChosen] = useState<FoundUser[]>([]);
  const [alias, setAlias] = useState("");
  const create = async (data: FormData) => {
    const id = await roomEntry.createRoom({
      name: String(data.get("name")).trim(),
      topic: String(data.get("topic")).trim(),
      isPublic,
      alias: isPublic ? toUsername(alias) : "",
      historyVisibility: history,
      invite: chosen.map((person) => person.id),
    });
    navigate({ at: "room", id });
  };
  return (
    <ConfirmDialog title="New room" submit="Create room" onConfirm={create} onClose={onClose}>
      <Field label="Name" name="name" autocomplete="off" dir="auto" maxLength={255} required />
      <Field label="Topic" name="topic" autocomplete="off" dir="auto" placeholder="What is it about? (optional)" />
      <fieldset class="choices">
        <legend class="label">Who can join</legend>
        <AccessChoice label="Private" hint="Only invited people." checked={!isPublic} onChoose={() => setPublic(false)} />
        <AccessChoice label="Public" hint="Everyone; the room is in the public list." checked={isPublic} onChoose={() => setPublic(true)} />
      </fieldset>
      {isPublic && <AliasField server={serverNameOf(me)} value={alias} onChange={setAlias} />}
      <Select
        label="Who can read the history"
        value={history}
        onChange={setHistory}
        options={isPublic ? HISTORY_VISIBILITIES : HISTORY_VISIBILITIES.slice(0, 3)}
      />
      <PeoplePicker label="Invite people" compact chosen={chosen} onChange={setChosen} />
    </ConfirmDialog>
  );
}

function AccessChoice({ label, hint, checked, onChoose }: { label: string; hint: string; checked: boolean; onChoose: () => void }) {
  return (
    <label class="check">
      <input type="radio" name="access" checked={checked} onChange={onChoose} />
      <span>
        {label}
        <span class="hint">{hint}</span>
      </span>
    </label>
  );
}
