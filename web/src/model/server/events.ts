// The types of Matrix events and of /sync, as far as the page reads them. Contents come from other people, so their
// values are unknown until they are checked.

export type Content = Record<string, unknown>;

export interface UnsignedData {
  transaction_id?: string;
  redacted_because?: RawEvent;
  prev_content?: Content;
  membership?: string;
  "m.relations"?: Record<string, unknown>;
  [key: string]: unknown;
}

/** An event as the server sends it. */
export interface RawEvent {
  event_id: string;
  type: string;
  sender: string;
  origin_server_ts: number;
  content: Content;
  state_key?: string;
  redacts?: string;
  unsigned?: UnsignedData;
}

/** An event with only type, sender, state key and content, as in an invitation. */
export interface StrippedEvent {
  type: string;
  sender: string;
  state_key?: string;
  content: Content;
}

export interface EphemeralEvent {
  type: string;
  content: Content;
}

export interface NotificationCounts {
  notification_count?: number;
  highlight_count?: number;
}

export interface JoinedRoomUpdate {
  summary?: {
    "m.heroes"?: string[];
    "m.joined_member_count"?: number;
    "m.invited_member_count"?: number;
  };
  state?: { events?: RawEvent[] };
  timeline?: { events?: RawEvent[]; limited?: boolean; prev_batch?: string };
  ephemeral?: { events?: EphemeralEvent[] };
  account_data?: { events?: EphemeralEvent[] };
  unread_notifications?: NotificationCounts;
}

export interface InvitedRoomUpdate {
  invite_state?: { events?: StrippedEvent[] };
}

export interface KnockedRoomUpdate {
  knock_state?: { events?: StrippedEvent[] };
}

export interface LeftRoomUpdate {
  state?: { events?: RawEvent[] };
  timeline?: { events?: RawEvent[]; limited?: boolean; prev_batch?: string };
}

export interface SyncUpdate {
  next_batch: string;
  rooms?: {
    join?: Record<string, JoinedRoomUpdate>;
    invite?: Record<string, InvitedRoomUpdate>;
    knock?: Record<string, KnockedRoomUpdate>;
    leave?: Record<string, LeftRoomUpdate>;
  };
  presence?: { events?: { type: string; sender: string; content: Content }[] };
  account_data?: { events?: EphemeralEvent[] };
  to_device?: { events?: unknown[] };
}

export function asString(value: unknown): string | undefined {
  return typeof value === "string" ? value : undefined;
}

export function asNumber(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

export function asRecord(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}

export function asArray(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

export function asStrings(value: unknown): string[] {
  return asArray(value).filter((item): item is string => typeof item === "string");
}

/** The relation of an event, from `m.relates_to`. */
export interface Relation {
  type: string | undefined;
  target: string | undefined;
  key: string | undefined;
  /** The event that is replied to, unless this is only the fallback of a thread. */
  replyTo: string | undefined;
}

export function relationOf(content: Content): Relation {
  const relation = asRecord(content["m.relates_to"]) ?? {};
  const type = asString(relation["rel_type"]);
  const isFallback = type === "m.thread" && relation["is_falling_back"] === true;
  return {
    type,
    target: asString(relation["event_id"]),
    key: asString(relation["key"]),
    replyTo: isFallback ? undefined : asString(asRecord(relation["m.in_reply_to"])?.["event_id"]),
  };
}
