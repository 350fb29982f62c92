// What members do to a room and to each other: its name and picture, its rules, who is in it and as what.

import { type Api, path } from "../server/api.ts";
import { type Content, number, record } from "../server/events.ts";
import type { LiveConnection } from "../server/liveConnection.ts";
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

  /** Gives a room an address, and makes it the one to show. */
  async setAlias(roomId: string, alias: string): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/directory/room/${alias}`, { room_id: roomId });
    await this.setState(roomId, "m.room.canonical_alias", { alias });
  }

  /** Whether a room stands in the list of public rooms. */
  async isPubliclyListed(roomId: string): Promise<boolean> {
    const { visibility } = await this.api.get<{ visibility?: string }>(path`/_matrix/client/v3/directory/list/room/${roomId}`);
    return visibility === "public";
  }

  async setPubliclyListed(roomId: string, listed: boolean): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/directory/list/room/${roomId}`, { visibility: listed ? "public" : "private" });
  }

  /** Invites people, each until a time if there is one. */
  async invite(roomId: string, userIds: string[], until?: number): Promise<void> {
    for (const userId of userIds) {
      if (until === undefined) await this.changeMembership(roomId, "invite", userId);
      else await this.parlourApi.inviteUntil(roomId, userId, until);
    }
  }

  /** Takes somebody out of a room, or their invitation back. */
  async kick(roomId: string, userId: string, reason = ""): Promise<void> {
    await this.changeMembership(roomId, "kick", userId, reason);
  }

  async ban(roomId: string, userId: string, reason = ""): Promise<void> {
    await this.changeMembership(roomId, "ban", userId, reason);
  }

  async unban(roomId: string, userId: string): Promise<void> {
    await this.changeMembership(roomId, "unban", userId);
  }

  /** Gives somebody a power level; everything else in the levels stays as it is. */
  async setLevel(room: Room, userId: string, level: number): Promise<void> {
    const levels = room.content("m.room.power_levels") ?? {};
    const users = { ...record(levels["users"]) };
    if (level === (number(levels["users_default"]) ?? 0)) delete users[userId];
    else users[userId] = level;
    await this.setState(room.id, "m.room.power_levels", { ...levels, users });
  }

  /** Leaves a room, or declines an invitation to it. */
  async leave(roomId: string): Promise<void> {
    await this.api.post(path`/_matrix/client/v3/rooms/${roomId}/leave`);
  }

  private async changeMembership(roomId: string, how: string, userId: string, reason = ""): Promise<void> {
    const body = { user_id: userId, ...(reason === "" ? {} : { reason }) };
    await this.api.post(path`/_matrix/client/v3/rooms/${roomId}/` + how, body);
  }
}

/** When an invitation to a room ends; undefined where it does not. */
export function invitationExpiry(room: Room, userId: string): number | undefined {
  return number(room.content("m.room.member", userId)?.[EXPIRES_AT_FIELD]);
}

/** The roles that one member can give another: none above the own, and none to those as high as oneself. */
export function assignableRoles(powerLevels: PowerLevels, me: string, userId: string): (typeof ROLE_LEVELS)[number][] {
  const own = powerLevels.levelOf(me);
  const theirs = powerLevels.levelOf(userId);
  if (!powerLevels.maySend(me, "m.room.power_levels", true) || theirs === Infinity) return [];
  if (userId !== me && theirs >= own) return [];
  return ROLE_LEVELS.filter(({ level }) => level <= own && level !== theirs);
}

/** Who made the room, and may delete it; the other creators that new room versions know may not. */
export function isCreator(room: Room, userId: string): boolean {
  return room.creator.value === userId;
}

/** Marks one as here, or as not here, at once. */
export async function announcePresence(api: Api, connection: LiveConnection, me: string, shown: boolean): Promise<void> {
  const presence = shown ? "online" : "offline";
  if (connection.canRequest) await connection.request("presence", { presence });
  else await api.put(path`/_matrix/client/v3/presence/${me}/status`, { presence });
}
