import { PowerLevels } from "../../model/rooms/powerLevels.ts";
import type { Member, Room } from "../../model/rooms/room.ts";
import { assignableRoles, invitationExpiry } from "../../model/rooms/roomAdministration.ts";
import { useClient } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { relativeTime } from "../components/formatTime.ts";
import { Menu, type MenuItem } from "../components/Menu.tsx";
import { attempt } from "../components/Toasts.tsx";
import { openDirectChat } from "../people/openDirectChat.ts";
import { presenceText } from "../people/presenceText.ts";
import { showProfile } from "../people/shownProfile.ts";
import type { MemberAction } from "./MemberDialog.tsx";

interface Props {
  room: Room;
  member: Member;
  onAction: (action: MemberAction) => void;
}

const ROLE_NAMES = { creator: "Creator", admin: "Admin", moderator: "Moderator", member: null, muted: "Muted" };

/** A member of the room, with a menu of actions. */
export function MemberRow({ room, member, onAction }: Props) {
  const { presences } = useClient();
  const { userId, name, avatar, membership } = member;
  const role = membership === "join" ? roleOf(room, userId) : null;
  const items = useMemberActions(room, member, onAction);
  return (
    <div class="member-row">
      <button type="button" class="member row-button" onClick={() => showProfile(userId)}>
        <Avatar id={userId} name={name} mxc={avatar} presenceOf={membership === "join" ? userId : undefined} />
        <span class="grow">
          <span class="member-name ellipsis" dir="auto">
            {name}
          </span>
          <span class="member-detail ellipsis">{membership === "join" ? presenceText(presences.get(userId)) : detailOf(room, member)}</span>
        </span>
        {role !== null && <span class="role">{role}</span>}
      </button>
      {items.length > 0 && <Menu label={`Actions for ${name}`} items={items} />}
    </div>
  );
}

/** Returns the name of the member's role, if it has one. In old room versions the creator has the level of an admin. */
function roleOf(room: Room, userId: string): string | null {
  const powerLevels = room.powerLevels.value;
  if (room.creator.value === userId && powerLevels.levelOf(userId) >= 100) return "Creator";
  return ROLE_NAMES[PowerLevels.roleName(powerLevels.levelOf(userId))];
}

function detailOf(room: Room, { userId, membership, sender, reason }: Member): string {
  if (membership === "invite") {
    const ends = invitationExpiry(room, userId);
    return ends === undefined ? `Invited by ${room.memberName(sender)}` : `Expires ${relativeTime(ends)}`;
  }
  if (membership === "knock") return reason ?? "Asks to join";
  return reason ?? `Banned by ${room.memberName(sender)}`;
}

function useMemberActions(room: Room, member: Member, onAction: (action: MemberAction) => void): MenuItem[] {
  const client = useClient();
  const { me, roomAdministration } = client;
  const { userId, membership } = member;
  const powerLevels = room.powerLevels.value;
  const items: MenuItem[] = [];
  const addAction = (label: string, icon: MenuItem["icon"], work: () => Promise<unknown>) => items.push({ label, icon, action: () => void attempt(work) });
  const addDialog = (kind: MemberAction["kind"], label: string, icon: MenuItem["icon"]) =>
    items.push({ label, icon, danger: kind !== "role", action: () => onAction({ kind, member }) });
  if (membership === "ban") {
    if (powerLevels.mayActOn(me, "ban", userId) && powerLevels.may(me, "kick"))
      addAction("Unban", "check", async () => roomAdministration.unban(room.id, userId));
    return items;
  }
  if (userId !== me) items.push({ label: "Message", icon: "chat", action: () => void openDirectChat(client, userId) });
  if (membership === "knock" && powerLevels.may(me, "invite")) addAction("Let in", "check", async () => roomAdministration.invite(room.id, [userId]));
  if (membership === "join" && assignableRoles(powerLevels, me, userId).length > 0) addDialog("role", "Change role", "shield");
  if (userId === me) return items;
  if (powerLevels.mayActOn(me, "kick", userId)) {
    if (membership === "join") addDialog("kick", "Remove from room", "door");
    else addAction(membership === "invite" ? "Withdraw invitation" : "Decline", "close", async () => roomAdministration.kick(room.id, userId));
  }
  if (powerLevels.mayActOn(me, "ban", userId)) addDialog("ban", "Ban", "warning");
  return items;
}
