// Permissions in a room: the power levels, with the defaults of the specification.

import { asNumber, asRecord, type Content } from "../server/events.ts";

export type PowerAction = "invite" | "kick" | "ban" | "redact";

const DEFAULT_ACTION_LEVELS: Record<PowerAction, number> = { invite: 0, kick: 50, ban: 50, redact: 50 };

export class PowerLevels {
  constructor(
    private readonly levels: Content | undefined,
    private readonly creators: string[],
    private readonly roomVersion: string,
  ) {}

  levelOf(userId: string): number {
    if (this.creatorsAreUnlimited && this.creators.includes(userId)) return Infinity;
    if (this.levels === undefined) return this.creators[0] === userId ? 100 : 0;
    const users = asRecord(this.levels["users"]) ?? {};
    return asNumber(users[userId]) ?? asNumber(this.levels["users_default"]) ?? 0;
  }

  may(userId: string, action: PowerAction): boolean {
    return this.levelOf(userId) >= this.requiredLevel(action);
  }

  /** Whether a user may kick, ban or change the power level of another. */
  mayActOn(userId: string, action: "kick" | "ban", other: string): boolean {
    return this.may(userId, action) && this.levelOf(userId) > this.levelOf(other);
  }

  maySend(userId: string, type: string, isState = false): boolean {
    const events = asRecord(this.levels?.["events"]) ?? {};
    const byDefault = isState
      ? (asNumber(this.levels?.["state_default"]) ?? (this.levels === undefined ? 0 : 50))
      : (asNumber(this.levels?.["events_default"]) ?? 0);
    return this.levelOf(userId) >= (asNumber(events[type]) ?? byDefault);
  }

  requiredLevel(action: PowerAction): number {
    return asNumber(this.levels?.[action]) ?? DEFAULT_ACTION_LEVELS[action];
  }

  /** In room version 12 creators have no entry in the power levels and cannot be given one. */
  get creatorsAreUnlimited(): boolean {
    return Number(this.roomVersion) >= 12;
  }

  static roleName(level: number): "creator" | "admin" | "moderator" | "member" | "muted" {
    if (level === Infinity) return "creator";
    if (level >= 100) return "admin";
    if (level >= 50) return "moderator";
    return level < 0 ? "muted" : "member";
  }
}
