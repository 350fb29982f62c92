import { PowerLevels } from "../../model/rooms/powerLevels.ts";
import type { Member, Room } from "../../model/rooms/room.ts";
import { assignableRoles, invitationExpiry } from "../../model/rooms/roomAdministration.ts";
import { useChat } from "../clientContext.ts";
import { Avatar } from "../components/Avatar.tsx";
import { fromNow } from "../components/formatTime.ts";
import { Menu, type MenuItem } from "../components/Menu.tsx";
import { attempt } from "../components/Toasts.tsx";
import { openDirect } from "../people/openDirectChat.ts";
import { presenceText } from "../people/presenceText.ts";
import { showProfile } from "../people/shownProfile.ts";
import type { MemberDeed } from "./MemberDialog.tsx";

interface Props {
  room: Room;
  member: Member;
  onDeed: (deed: MemberDeed) => void;
}

const ROLE_NAMES = { creator: "Creator", admin: "Admin", moderator: "Moderator", member: null, muted: "Muted" };

/** Somebody in the room, with what one can do about them. */
export function MemberRow({ room, member, onDeed }: Props) {
  const { presences } = useChat();
  const { userId, name, avatar, membership } = member;
  const role = membership === "join" ? roleOf(room, userId) : null;
  const items = useDeeds(room, member, onDeed);
  return (
    <div class="member-row">
      <button type="button" class="member" onClick={() => showProfile(userId)}>
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

/** The name of the role, if it is one worth a name. Who made a room of an old version is an admin of it. */
function roleOf(room: Room, userId: string): string | null {
  const powers = room.powerLevels.value;
  if (room.creator.value === userId && powers.levelOf(userId) >= 100) return "Creator";
  return ROLE_NAMES[PowerLevels.roleName(powers.levelOf(userId))];
}

function detailOf(room: Room, { userId, membership, sender, reason }: Member): string {
  if (membership === "invite") {
    const ends = invitationExpiry(room, userId);
    return ends === undefined ? `Invited by ${room.memberName(sender)}` : `Expires ${fromNow(ends)}`;
  }
  if (membership === "knock") return reason ?? "Asks to come in";
  return reason ?? `Banned by ${room.memberName(sender)}`;
}

function useDeeds(room: Room, member: Member, onDeed: (deed: MemberDeed) => void): MenuItem[] {
  const chat = useChat();
  const { me, roomAdministration } = chat;
  const { userId, membership } = member;
  const powers = room.powerLevels.value;
  const items: MenuItem[] = [];
  const do_ = (label: string, icon: MenuItem["icon"], work: () => Promise<unknown>) => items.push({ label, icon, action: () => void attempt(work) });
  const ask = (kind: MemberDeed["kind"], label: string, icon: MenuItem["icon"]) =>
    items.push({ label, icon, danger: kind !== "role", action: () => onDeed({ kind, member }) });
  if (membership === "ban") {
    if (powers.mayActOn(me, "ban", userId) && powers.may(me, "kick")) do_("Unban", "check", async () => roomAdministration.unban(room.id, userId));
    return items;
  }
  if (userId !== me) items.push({ label: "Message", icon: "chat", action: () => void openDirect(chat, userId) });
  if (membership === "knock" && powers.may(me, "invite")) do_("Let in", "check", async () => roomAdministration.invite(room.id, [userId]));
  if (membership === "join" && assignableRoles(powers, me, userId).length > 0) ask("role", "Change role", "shield");
  if (userId === me) return items;
  if (powers.mayActOn(me, "kick", userId)) {
    if (membership === "join") ask("kick", "Remove from room", "door");
    else do_(membership === "invite" ? "Withdraw invitation" : "Turn down", "close", async () => roomAdministration.kick(room.id, userId));
  }
  if (powers.mayActOn(me, "ban", userId)) ask("ban", "Ban", "warning");
  return items;
}
