// One room, as this user sees it.

import { computed, signal } from "@preact/signals";
import type { Api } from "../server/api.ts";
import {
  asNumber,
  asRecord,
  asString,
  asStrings,
  type Content,
  type EphemeralEvent,
  type JoinedRoomUpdate,
  type RawEvent,
  type StrippedEvent,
} from "../server/events.ts";
import { localpart } from "../server/matrixId.ts";
import { Timeline } from "../timeline/timeline.ts";
import { PowerLevels } from "./powerLevels.ts";

export type Membership = "join" | "invite" | "knock" | "leave" | "ban";

export interface Member {
  userId: string;
  name: string;
  avatar: string | undefined;
  membership: Membership;
  /** The user who set the membership: for an invitation, the inviter. */
  sender: string;
  reason: string | undefined;
}

export interface Receipt {
  eventId: string;
  time: number;
}

type RoomStateEvent = RawEvent | StrippedEvent;

export class Room {
  readonly membership = signal<Membership>("join");
  /** Goes up when the state of the room changes, except for members. */
  readonly stateChanged = signal(0);
  readonly membersChanged = signal(0);
  readonly receiptsChanged = signal(0);
  readonly unread = signal({ count: 0, highlights: 0 });
  /** The users who are typing, except this one. */
  readonly typing = signal<string[]>([]);
  readonly fullyRead = signal<string | null>(null);
  readonly tags = signal<string[]>([]);
  /** The other user of a direct chat, from this user's account data. */
  readonly directWith = signal<string | null>(null);
  readonly timeline: Timeline;
  readonly members = new Map<string, Member>();
  /** The newest public receipt of each member, in any thread. */
  readonly receipts = new Map<string, Receipt>();
  /** Whether all members are loaded, not only those who sent something. */
  readonly hasAllMembers = signal(false);
  /** The time of the last event that moves the room up in the list. */
  readonly activity = signal(0);

  private readonly state = new Map<string, Map<string, RoomStateEvent>>();
  private heroes: string[] = [];
  private memberCounts: { joined: number | undefined; invited: number | undefined } = { joined: undefined, invited: undefined };

  constructor(
    private readonly api: Api,
    readonly id: string,
    readonly me: string,
  ) {
    this.timeline = new Timeline(api, id);
    this.timeline.onHistoricState = (events) => this.addHistoricMembers(events);
  }

  // State of the room. Views that read these signals are drawn again when they change.

  readonly name = computed(() => {
    this.stateChanged.value;
    const own = asString(this.content("m.room.name")?.["name"])?.trim() || asString(this.content("m.room.canonical_alias")?.["alias"]);
    return own ?? this.nameByMembers();
  });

  readonly avatar = computed(() => {
    this.stateChanged.value;
    const own = asString(this.content("m.room.avatar")?.["url"]);
    if (own !== undefined) return own;
    this.membersChanged.value;
    const other = this.directWith.value;
    return other === null ? undefined : this.members.get(other)?.avatar;
  });

  readonly topic = computed(() => this.field("m.room.topic", "topic"));
  readonly alias = computed(() => this.field("m.room.canonical_alias", "alias"));
  readonly joinRule = computed(() => this.field("m.room.join_rules", "join_rule") ?? "invite");
  readonly historyVisibility = computed(() => this.field("m.room.history_visibility", "history_visibility") ?? "shared");
  readonly encrypted = computed(() => this.field("m.room.encryption", "algorithm") !== undefined);
  readonly isSpace = computed(() => this.field("m.room.create", "type") === "m.space");
  readonly version = computed(() => this.field("m.room.create", "room_version") ?? "1");
  /** The room that replaced this one. */
  readonly successor = computed(() => this.field("m.room.tombstone", "replacement_room"));
  readonly creator = computed(() => {
    this.stateChanged.value;
    return this.stateEvent("m.room.create")?.sender;
  });

  readonly powerLevels = computed(() => {
    this.stateChanged.value;
    const create = this.content("m.room.create") ?? {};
    const creators = [this.creator.value, ...asStrings(create["additional_creators"])].filter((id) => id !== undefined);
    return new PowerLevels(this.content("m.room.power_levels"), creators, this.version.value);
  });

  readonly joinedCount = computed(() => {
    this.membersChanged.value;
    return this.memberCounts.joined ?? [...this.members.values()].filter(({ membership }) => membership === "join").length;
  });

  /** This user's membership event. For an invitation it has the inviter and the expiry. */
  readonly ownMember = computed(() => {
    this.membersChanged.value;
    return this.stateEvent("m.room.member", this.me);
  });

  /** The newest event that the room list can show. */
  readonly preview = computed(() => {
    this.timeline.changed.value;
    const events = this.timeline.pending.length > 0 ? this.timeline.pending : this.timeline.events;
    return events.findLast(({ raw, isRedacted, relation }) => isVisibleMessage(raw) && !isRedacted && relation.type !== "m.replace");
  });

  stateEvent(type: string, key = ""): RoomStateEvent | undefined {
    return this.state.get(type)?.get(key);
  }

  content(type: string, key = ""): Content | undefined {
    return this.stateEvent(type, key)?.content;
  }

  memberName(userId: string): string {
    return this.members.get(userId)?.name ?? localpart(userId);
  }

  /** Returns the members with a membership, sorted by name. */
  membersWith(membership: Membership): Member[] {
    return [...this.members.values()].filter((member) => member.membership === membership).sort((a, b) => a.name.localeCompare(b.name));
  }

  /** Loads the members that lazy loading left out of the syncs. */
  async loadMembers(): Promise<void> {
    if (this.hasAllMembers.value || this.membership.value !== "join") return;
    const { chunk } = await this.api.get<{ chunk: RawEvent[] }>(`/_matrix/client/v3/rooms/${encodeURIComponent(this.id)}/members`);
    for (const event of chunk) if (!this.members.has(event.state_key ?? "")) this.applyState(event);
    this.hasAllMembers.value = true;
    this.membersChanged.value += 1;
  }

  // Updates from the server.

  applyJoin(update: JoinedRoomUpdate): void {
    if (this.membership.value !== "join") this.state.clear();
    this.membership.value = "join";
    for (const event of update.state?.events ?? []) this.applyState(event);
    const events = update.timeline?.events ?? [];
    for (const event of events) if (event.state_key !== undefined) this.applyState(event);
    this.applySummary(update.summary);
    this.timeline.update(events, update.timeline?.limited ?? false, update.timeline?.prev_batch);
    for (const event of events) this.updateActivity(event);
    for (const event of update.ephemeral?.events ?? []) this.applyEphemeral(event);
    for (const event of update.account_data?.events ?? []) this.applyAccountData(event);
    const counts = update.unread_notifications;
    if (counts !== undefined) {
      this.unread.value = { count: counts.notification_count ?? 0, highlights: counts.highlight_count ?? 0 };
    }
  }

  applyInviteOrKnock(membership: "invite" | "knock", events: StrippedEvent[]): void {
    if (this.membership.value !== membership) {
      this.state.clear();
      this.members.clear();
    }
    this.membership.value = membership;
    this.activity.value = Date.now();
    for (const event of events) this.applyState(event);
  }

  applyLeave(events: RawEvent[]): void {
    for (const event of events) if (event.state_key !== undefined) this.applyState(event);
    this.timeline.append(events);
    const own = asString(this.content("m.room.member", this.me)?.["membership"]);
    this.membership.value = own === "ban" ? "ban" : "leave";
    this.typing.value = [];
    this.unread.value = { count: 0, highlights: 0 };
  }

  /** Adds members that came with older history. Members that are already known are newer. */
  addHistoricMembers(events: RawEvent[]): void {
    for (const event of events) {
      if (event.type === "m.room.member" && !this.members.has(event.state_key ?? "")) this.applyState(event);
    }
  }

  /** Clears the unread counts immediately, before the server does. */
  markRead(): void {
    this.unread.value = { count: 0, highlights: 0 };
  }

  private applyState(event: RoomStateEvent): void {
    const key = event.state_key ?? "";
    const ofType = this.state.get(event.type) ?? new Map<string, RoomStateEvent>();
    this.state.set(event.type, ofType.set(key, event));
    if (event.type === "m.room.member") this.applyMember(key, event);
    else this.stateChanged.value += 1;
  }

  private applyMember(userId: string, event: RoomStateEvent): void {
    const known = this.members.get(userId);
    const hasLeft = !["join", "invite", "knock"].includes(String(event.content["membership"]));
    this.members.set(userId, {
      userId,
      // The event of a member who left has no name; the old one is still the best.
      name: asString(event.content["displayname"])?.trim() || (hasLeft ? known?.name : undefined) || localpart(userId),
      avatar: asString(event.content["avatar_url"]) ?? (hasLeft ? known?.avatar : undefined),
      membership: (asString(event.content["membership"]) ?? "leave") as Membership,
      sender: event.sender,
      reason: asString(event.content["reason"]),
    });
    this.membersChanged.value += 1;
  }

  private applySummary(summary: JoinedRoomUpdate["summary"]): void {
    if (summary === undefined) return;
    this.heroes = summary["m.heroes"] ?? this.heroes;
    this.memberCounts = {
      joined: summary["m.joined_member_count"] ?? this.memberCounts.joined,
      invited: summary["m.invited_member_count"] ?? this.memberCounts.invited,
    };
    this.membersChanged.value += 1;
  }

  private updateActivity(event: RawEvent): void {
    if (isVisibleMessage(event) || (event.type === "m.room.member" && event.state_key === this.me)) {
      this.activity.value = Math.max(this.activity.value, event.origin_server_ts);
    }
  }

  private applyEphemeral({ type, content }: EphemeralEvent): void {
    if (type === "m.typing") this.typing.value = asStrings(content["user_ids"]).filter((id) => id !== this.me);
    else if (type === "m.receipt") this.applyReceipts(content);
  }

  private applyReceipts(content: Content): void {
    for (const [eventId, kinds] of Object.entries(content)) {
      const readers = asRecord(asRecord(kinds)?.["m.read"]) ?? {};
      for (const [userId, receipt] of Object.entries(readers)) {
        const time = asNumber(asRecord(receipt)?.["ts"]) ?? 0;
        if (time >= (this.receipts.get(userId)?.time ?? 0)) this.receipts.set(userId, { eventId, time });
      }
    }
    this.receiptsChanged.value += 1;
  }

  private applyAccountData({ type, content }: EphemeralEvent): void {
    if (type === "m.fully_read") this.fullyRead.value = asString(content["event_id"]) ?? null;
    if (type === "m.tag") this.tags.value = Object.keys(asRecord(content["tags"]) ?? {});
  }

  private field(type: string, key: string): string | undefined {
    this.stateChanged.value;
    return asString(this.content(type)?.[key]);
  }

  /** Returns a name made of the members, for a room without a name. */
  private nameByMembers(): string {
    this.membersChanged.value;
    const others = this.heroes.length > 0 ? this.heroes : this.others();
    const names = others.map((userId) => this.memberName(userId));
    const total = (this.memberCounts.joined ?? 0) + (this.memberCounts.invited ?? 0) - 1;
    const more = Math.max(total - names.length, 0);
    if (names.length === 0) return this.directWith.value === null ? "Empty room" : localpart(this.directWith.value);
    if (more > 0) return `${names.join(", ")} and ${more} more`;
    return names.length === 1 ? names[0]! : `${names.slice(0, -1).join(", ")} and ${names.at(-1)!}`;
  }

  private others(): string[] {
    const here = [...this.members.values()].filter(({ membership }) => membership === "join" || membership === "invite");
    return here
      .map(({ userId }) => userId)
      .filter((userId) => userId !== this.me)
      .slice(0, 5);
  }
}

/** Whether people see the event as a message. */
export function isVisibleMessage({ type }: { type: string }): boolean {
  return type === "m.room.message" || type === "m.room.encrypted" || type === "m.sticker" || type.endsWith("poll.start");
}
