// Changes to a room and its members: its state, its address, invitations, kicks, bans and roles.

import { type Api, path } from "../server/api.ts";
import { asNumber, asRecord, type Content } from "../server/events.ts";
import type { ParlourApi } from "../server/parlourApi.ts";
import { EXPIRES_AT_FIELD } from "../server/parlourApi.ts";
import type { PowerLevels } from "./powerLevels.ts";
import type { Room } from "./room.ts";

export const ROLE_LEVELS = [
  { name: "Admin", level: 100 },
  { name: "Moderator", level: 50 },
  { name: "Member", level: 0 },
] as const;

export class RoomAdministration {
  constructor(
    private readonly api: Api,
    private readonly parlourApi: ParlourApi,
  ) {}

  async setState(roomId: string, type: string, content: Content, key = ""): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/rooms/${roomId}/state/${type}/${key}`, content);
  }

  /** Gives a room an alias and makes it the canonical one. */
  async setAlias(roomId: string, alias: string): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/directory/room/${alias}`, { room_id: roomId });
    await this.setState(roomId, "m.room.canonical_alias", { alias });
  }

  /** Whether a room is in the list of public rooms. */
  async isPubliclyListed(roomId: string): Promise<boolean> {
    const { visibility } = await this.api.get<{ visibility?: string }>(path`/_matrix/client/v3/directory/list/room/${roomId}`);
    return visibility === "public";
  }

  async setPubliclyListed(roomId: string, listed: boolean): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/directory/list/room/${roomId}`, { visibility: listed ? "public" : "private" });
  }

  /** Invites users, with an expiry time if there is one. */
  async invite(roomId: string, userIds: string[], until?: number): Promise<void> {
    for (const userId of userIds) {
      if (until === undefined) await this.changeMembership(roomId, "invite", userId);
      else await this.parlourApi.inviteUntil(roomId, userId, until);
    }
  }

  /** Removes a member from a room, or withdraws an invitation. */
  async kick(roomId: string, userId: string, reason = ""): Promise<void> {
    await this.changeMembership(roomId, "kick", userId, reason);
  }

  async ban(roomId: string, userId: string, reason = ""): Promise<void> {
    await this.changeMembership(roomId, "ban", userId, reason);
  }

  async unban(roomId: string, userId: string): Promise<void> {
    await this.changeMembership(roomId, "unban", userId);
  }

  /** Sets the power level of a user and leaves the other levels as they are. */
  async setLevel(room: Room, userId: string, level: number): Promise<void> {
    const levels = room.content("m.room.power_levels") ?? {};
    const users = { ...asRecord(levels["users"]) };
    if (level === (asNumber(levels["users_default"]) ?? 0)) delete users[userId];
    else users[userId] = level;
    await this.setState(room.id, "m.room.power_levels", { ...levels, users });
  }

  /** Leaves a room, or declines an invitation. */
  async leave(roomId: string): Promise<void> {
    await this.api.post(path`/_matrix/client/v3/rooms/${roomId}/leave`);
  }

  private async changeMembership(roomId: string, how: string, userId: string, reason = ""): Promise<void> {
    const body = { user_id: userId, ...(reason === "" ? {} : { reason }) };
    await this.api.post(path`/_matrix/client/v3/rooms/${roomId}/` + how, body);
  }
}

/** Returns when an invitation to a room expires; undefined if it does not. */
export function invitationExpiry(room: Room, userId: string): number | undefined {
  return asNumber(room.content("m.room.member", userId)?.[EXPIRES_AT_FIELD]);
}

/** Returns the roles that one member can give another: none above their own, and none to a member of the same level. */
export function assignableRoles(powerLevels: PowerLevels, me: string, userId: string): (typeof ROLE_LEVELS)[number][] {
  const own = powerLevels.levelOf(me);
  const theirs = powerLevels.levelOf(userId);
  if (!powerLevels.maySend(me, "m.room.power_levels", true) || theirs === Infinity) return [];
  if (userId !== me && theirs >= own) return [];
  return ROLE_LEVELS.filter(({ level }) => level <= own && level !== theirs);
}

/** Whether the user made the room and may delete it. The additional creators of new room versions may not. */
export function isCreator(room: Room, userId: string): boolean {
  return room.creator.value === userId;
}
