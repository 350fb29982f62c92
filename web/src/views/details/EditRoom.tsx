import { useState } from "preact/hooks";
import type { Room } from "../../model/rooms/room.ts";
import { serverNameOf } from "../../model/server/matrixId.ts";
import { toUsername } from "../../model/session/authentication.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { Field } from "../components/Form.tsx";
import { PictureButton } from "../components/PictureButton.tsx";
import { AliasField } from "../explore/AliasField.tsx";

/** Changes the name, topic, picture and address of a room, as far as the user may. */
export function EditRoom({ room, onClose }: { room: Room; onClose: () => void }) {
  const { roomAdministration, me } = useClient();
  const may = (type: string) => room.powerLevels.value.maySend(me, type, true);
  const [alias, setAlias] = useState("");
  const name = String(room.content("m.room.name")?.["name"] ?? "");
  const topic = room.topic.value ?? "";
  const mayAlias = may("m.room.canonical_alias") && room.alias.value === undefined;
  const save = async (data: FormData) => {
    const nextName = String(data.get("name") ?? name).trim();
    const nextTopic = String(data.get("topic") ?? topic).trim();
    if (nextName !== name) await roomAdministration.setState(room.id, "m.room.name", { name: nextName });
    if (nextTopic !== topic) await roomAdministration.setState(room.id, "m.room.topic", { topic: nextTopic });
    if (mayAlias && alias !== "") await roomAdministration.setAlias(room.id, `#${toUsername(alias)}:${serverNameOf(me)}`);
  };
  return (
    <ConfirmDialog title="Edit room" submit="Save" onConfirm={save} onClose={onClose}>
      {may("m.room.avatar") && (
        <PictureButton
          id={room.id}
          name={room.name.value}
          mxc={room.avatar.value}
          square
          onChange={async (mxc) => roomAdministration.setState(room.id, "m.room.avatar", mxc === undefined ? {} : { url: mxc })}
        />
      )}
      <Field label="Name" name="name" defaultValue={name} dir="auto" autocomplete="off" disabled={!may("m.room.name")} />
      <div class="field">
        <label class="label" for="edit-topic">
          Topic
        </label>
        <textarea id="edit-topic" class="input" name="topic" rows={3} dir="auto" defaultValue={topic} disabled={!may("m.room.topic")} />
      </div>
      {mayAlias && <AliasField server={serverNameOf(me)} value={alias} onChange={setAlias} />}
    </ConfirmDialog>
  );
}
