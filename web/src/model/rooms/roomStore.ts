// All rooms of the user, from the syncs.

import { computed, signal } from "@preact/signals";
import type { Api } from "../server/api.ts";
import { asStrings, type Content, type SyncUpdate } from "../server/events.ts";
import { Room } from "./room.ts";

export class RoomStore {
  private readonly rooms = new Map<string, Room>();
  /** Goes up when a room is added or its membership changes. */
  readonly changed = signal(0);
  /** Whether the first sync has arrived. */
  readonly isReady = signal(false);

  constructor(
    private readonly api: Api,
    private readonly me: string,
  ) {}

  get(id: string): Room | undefined {
    return this.rooms.get(id);
  }

  /** The joined rooms, sorted by activity, newest first. */
  readonly joined = computed(() => {
    this.changed.value;
    return [...this.rooms.values()]
      .filter((room) => room.membership.value === "join" && !room.isSpace.value)
      .sort((a, b) => b.activity.value - a.activity.value);
  });

  readonly invitations = computed(() => {
    this.changed.value;
    return [...this.rooms.values()].filter((room) => room.membership.value === "invite");
  });

  readonly unread = computed(() => {
    const counts = this.joined.value.map((room) => room.unread.value);
    return {
      count: counts.reduce((sum, { count }) => sum + count, 0) + this.invitations.value.length,
      highlights: counts.reduce((sum, { highlights }) => sum + highlights, 0),
    };
  });

  update(update: SyncUpdate): void {
    const { join = {}, invite = {}, knock = {}, leave = {} } = update.rooms ?? {};
    for (const [id, part] of Object.entries(join)) this.room(id).applyJoin(part);
    for (const [id, part] of Object.entries(invite)) this.room(id).applyInviteOrKnock("invite", part.invite_state?.events ?? []);
    for (const [id, part] of Object.entries(knock)) this.room(id).applyInviteOrKnock("knock", part.knock_state?.events ?? []);
    for (const [id, part] of Object.entries(leave)) {
      this.rooms.get(id)?.applyLeave([...(part.state?.events ?? []), ...(part.timeline?.events ?? [])]);
    }
    this.changed.value += 1;
    this.isReady.value = true;
  }

  /** Takes over the account data `m.direct`: the direct chats and their users. */
  setDirectChats(direct: Content): void {
    const usersByRoom = new Map<string, string>();
    for (const [userId, ids] of Object.entries(direct)) for (const id of asStrings(ids)) usersByRoom.set(id, userId);
    for (const room of this.rooms.values()) room.directWith.value = usersByRoom.get(room.id) ?? null;
    this.directUsers = usersByRoom;
  }

  /** Removes a room that the server no longer sends. */
  forget(id: string): void {
    this.rooms.delete(id);
    this.changed.value += 1;
  }

  private directUsers = new Map<string, string>();

  private room(id: string): Room {
    let room = this.rooms.get(id);
    if (room === undefined) {
      room = new Room(this.api, id, this.me);
      room.directWith.value = this.directUsers.get(id) ?? null;
      this.rooms.set(id, room);
    }
    return room;
  }
}
