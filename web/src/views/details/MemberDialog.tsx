import { useState } from "preact/hooks";
import type { Member, Room } from "../../model/rooms/room.ts";
import { assignableRoles } from "../../model/rooms/roomAdministration.ts";
import { useClient } from "../clientContext.ts";
import { ConfirmDialog } from "../components/ConfirmDialog.tsx";
import { Field } from "../components/Form.tsx";
import { Select } from "../components/Select.tsx";

/** An action on a member that needs a dialog. */
export interface MemberAction {
  kind: "role" | "kick" | "ban";
  member: Member;
}

interface Props {
  room: Room;
  action: MemberAction;
  onClose: () => void;
}

export function MemberDialog({ room, action, onClose }: Props) {
  if (action.kind === "role") return <RoleDialog room={room} member={action.member} onClose={onClose} />;
  return <RemoveDialog room={room} action={action} onClose={onClose} />;
}

function RemoveDialog({ room, action: { kind, member }, onClose }: Props) {
  const { roomAdministration } = useClient();
  const run = async (data: FormData) => {
    const reason = String(data.get("reason")).trim();
    if (kind === "ban") await roomAdministration.ban(room.id, member.userId, reason);
    else await roomAdministration.kick(room.id, member.userId, reason);
  };
  return (
    <ConfirmDialog
      title={kind === "ban" ? `Ban ${member.name}?` : `Remove ${member.name}?`}
      submit={kind === "ban" ? "Ban" : "Remove"}
      danger
      onConfirm={run}
      onClose={onClose}
    >
      <p>
        {kind === "ban"
          ? "They leave the room and cannot come back until someone lifts the ban."
          : "They leave the room. They can come back if the room is open, or when they are invited again."}
      </p>
      <Field label="Reason (optional)" name="reason" dir="auto" autocomplete="off" hint="The person can read it." />
    </ConfirmDialog>
  );
}

function RoleDialog({ room, member, onClose }: { room: Room; member: Member; onClose: () => void }) {
  const { roomAdministration, me } = useClient();
  const roles = assignableRoles(room.powerLevels.value, me, member.userId);
  const [level, setLevel] = useState(String(roles[0]?.level ?? 0));
  const own = room.powerLevels.value.levelOf(me);
  const isHigh = Number(level) >= own || member.userId === me;
  return (
    <ConfirmDialog
      title={`Role of ${member.name}`}
      submit="Save"
      onConfirm={async () => roomAdministration.setLevel(room, member.userId, Number(level))}
      onClose={onClose}
    >
      <Select
        label="Role"
        value={level}
        onChange={setLevel}
        options={roles.map((role) => ({ value: String(role.level), label: role.name }))}
        hint="Moderators can remove people and messages; admins can change everything."
      />
      {isHigh && (
        <p class="problem">{member.userId === me ? "You cannot undo this yourself." : "This person will have as much power as you: you cannot undo this."}</p>
      )}
    </ConfirmDialog>
  );
}
