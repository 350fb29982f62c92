// The server's own API in addition to Matrix: docs/parlour-api.md.

import { type Api, path, UserFacingError } from "./api.ts";

export interface ServerUser {
  user_id: string;
  displayname?: string | null;
  avatar_url?: string | null;
  presence?: string;
  last_active_ts?: number | null;
  status_msg?: string | null;
}

export interface UsersPage {
  users: ServerUser[];
  next_batch?: string | null;
  total?: number;
}

export interface InviteLink {
  token: string;
  room_id: string;
  creator: string;
  created_at: number;
  expires_at?: number | null;
  max_uses?: number | null;
  uses: number;
  label?: string | null;
  url?: string | null;
}

export interface NewInviteLink {
  expires_at?: number | undefined;
  max_uses?: number | undefined;
  label?: string | undefined;
}

/** The information about an invite link for anyone who has it, with or without an account. */
export interface InviteLinkPreview {
  room: { room_id: string; name?: string | null; avatar_url?: string | null; topic?: string | null; joined_members?: number };
  inviter: { user_id: string; displayname?: string | null };
  expires_at?: number | null;
  /** Whether the link can be used to register an account. */
  registration: boolean;
}

/** The furthest expiry that the server accepts. */
export const MAX_EXPIRY_MS = 366 * 24 * 3_600_000;

/** The field in the content of an invitation that expires. */
export const EXPIRES_AT_FIELD = "dev.parlour.expires_at";

const BASE_PATH = "/_parlour/client/v1";

export class ParlourApi {
  constructor(private readonly api: Api) {}

  async users(search: string, from?: string, limit = 100): Promise<UsersPage> {
    return this.api.get(`${BASE_PATH}/users`, { search: search === "" ? undefined : search, from, limit });
  }

  /** Invites a user until a time; then the server withdraws the invitation. */
  async inviteUntil(roomId: string, userId: string, expiresAt: number, reason?: string): Promise<void> {
    const body = { user_id: userId, expires_at: expiresAt, ...(reason === undefined ? {} : { reason }) };
    await this.api.post(BASE_PATH + path`/rooms/${roomId}/invite`, body);
  }

  async inviteLinks(roomId: string): Promise<InviteLink[]> {
    return (await this.api.get<{ links: InviteLink[] }>(BASE_PATH + path`/rooms/${roomId}/invite_links`)).links;
  }

  async createInviteLink(roomId: string, link: NewInviteLink): Promise<InviteLink> {
    return this.api.post(BASE_PATH + path`/rooms/${roomId}/invite_links`, link);
  }

  async revokeInviteLink(roomId: string, token: string): Promise<void> {
    await this.api.delete(BASE_PATH + path`/rooms/${roomId}/invite_links/${token}`);
  }

  async previewInviteLink(token: string): Promise<InviteLinkPreview> {
    return this.api.get(BASE_PATH + path`/invite_links/${token}`, {}, { anonymous: true });
  }

  /** Joins the room of a link. Returns the room id. */
  async redeemInviteLink(token: string): Promise<string> {
    return (await this.api.post<{ room_id: string }>(BASE_PATH + path`/invite_links/${token}/redeem`)).room_id;
  }

  async deleteRoom(roomId: string, reason?: string): Promise<void> {
    await this.api.delete(BASE_PATH + path`/rooms/${roomId}`, reason === undefined ? {} : { reason });
  }
}

/** Returns how many more times a link can be used; null if there is no limit. */
export function usesLeft({ max_uses, uses }: InviteLink): number | null {
  return typeof max_uses === "number" ? Math.max(max_uses - uses, 0) : null;
}

/** Whether a link is used up or expired. */
export function isUnusable(link: InviteLink, now = Date.now()): boolean {
  return usesLeft(link) === 0 || (typeof link.expires_at === "number" && link.expires_at <= now);
}

export type ExpiryChoice = "never" | "hour" | "day" | "week" | "custom";

const HOUR_MS = 3_600_000;
const EXPIRY_DELAYS_MS = { hour: HOUR_MS, day: 24 * HOUR_MS, week: 7 * 24 * HOUR_MS };

/**
 * Returns the chosen time; undefined for never. `custom` is the value of an input for a local date and time.
 *
 * Throws a message for the user if the time is missing or in the past.
 */
export function expiresAt(choice: ExpiryChoice, custom: string, now = Date.now()): number | undefined {
  if (choice === "never") return undefined;
  if (choice !== "custom") return now + EXPIRY_DELAYS_MS[choice];
  const time = new Date(custom).getTime();
  if (Number.isNaN(time)) throw new UserFacingError("Choose a date and a time.");
  if (time <= now) throw new UserFacingError("That time is in the past. Choose a later one.");
  if (time > now + MAX_EXPIRY_MS) throw new UserFacingError("That is too far in the future. The limit is one year.");
  return time;
}
