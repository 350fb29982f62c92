// Creates rooms and direct chats, and joins rooms.

import { effect } from "@preact/signals";
import type { Api } from "../server/api.ts";
import { asStrings } from "../server/events.ts";
import type { ParlourApi } from "../server/parlourApi.ts";
import type { AccountData } from "../settings/accountData.ts";
import type { Room } from "./room.ts";
import type { RoomDirectory } from "./roomDirectory.ts";
import type { RoomStore } from "./roomStore.ts";

export interface NewRoomOptions {
  name: string;
  topic: string;
  isPublic: boolean;
  /** The part of the alias between `#` and the server name; empty for none. */
  alias: string;
  historyVisibility: string;
  invite: string[];
}

/** Time to wait until the sync has a room that the server has already confirmed. */
const SYNC_TIMEOUT_MS = 8_000;

export class RoomEntry {
  constructor(
    private readonly api: Api,
    private readonly rooms: RoomStore,
    private readonly accountData: AccountData,
    private readonly roomDirectory: RoomDirectory,
    private readonly parlourApi: ParlourApi,
  ) {}

  /** Creates a room. Returns its id when the room is in the list. */
  async createRoom({ name, topic, isPublic, alias, historyVisibility, invite }: NewRoomOptions): Promise<string> {
    const { room_id } = await this.api.post<{ room_id: string }>("/_matrix/client/v3/createRoom", {
      ...(name === "" ? {} : { name }),
      preset: isPublic ? "public_chat" : "private_chat",
      // Members may invite others, also into public rooms.
      power_level_content_override: { invite: 0 },
      visibility: isPublic ? "public" : "private",
      ...(topic === "" ? {} : { topic }),
      ...(alias === "" ? {} : { room_alias_name: alias }),
      initial_state: [{ type: "m.room.history_visibility", state_key: "", content: { history_visibility: historyVisibility } }],
      invite,
    });
    return this.waitForRoom(room_id);
  }

  /** Returns the direct chat with a user, and creates one if there is none. */
  async directChatWith(userId: string): Promise<string> {
    const known = this.existingDirectChat(userId);
    if (known?.membership.value === "invite") return this.acceptInvitation(known);
    if (known !== undefined) return known.id;
    const { room_id } = await this.api.post<{ room_id: string }>("/_matrix/client/v3/createRoom", {
      is_direct: true,
      preset: "trusted_private_chat",
      invite: [userId],
    });
    await this.accountData.addDirectChat(userId, room_id);
    return this.waitForRoom(room_id);
  }

  /** Returns the most recently used direct chat with a user. */
  existingDirectChat(userId: string): Room | undefined {
    const marked = asStrings(this.accountData.directChats.value[userId]).map((id) => this.rooms.get(id));
    const invited = this.rooms.invitations.value.filter((room) => isDirectInvitation(room) && room.ownMember.value?.sender === userId);
    return [...marked, ...invited]
      .filter((room): room is Room => room !== undefined && ["join", "invite"].includes(room.membership.value))
      .sort((a, b) => Number(b.membership.value === "join") - Number(a.membership.value === "join") || b.activity.value - a.activity.value)[0];
  }

  /** Accepts an invitation, and marks the room as a direct chat if the inviter did. */
  async acceptInvitation(room: Room): Promise<string> {
    const inviter = room.ownMember.value?.sender;
    const isDirect = isDirectInvitation(room);
    await this.roomDirectory.join(room.id);
    if (isDirect && inviter !== undefined) await this.accountData.addDirectChat(inviter, room.id);
    return this.waitForRoom(room.id);
  }

  /** Joins a room by id or alias. Returns its id when the room is in the list. */
  async joinRoom(address: string, via: string[] = []): Promise<string> {
    return this.waitForRoom(await this.roomDirectory.join(address, via));
  }

  async redeemInviteLink(token: string): Promise<string> {
    return this.waitForRoom(await this.parlourApi.redeemInviteLink(token));
  }

  /** Waits until the sync has a joined room, up to a timeout; the room will appear in any case. */
  async waitForRoom(roomId: string): Promise<string> {
    await new Promise<void>((resolve) => {
      let stop: (() => void) | undefined;
      const timeout = setTimeout(done, SYNC_TIMEOUT_MS);
      function done(): void {
        clearTimeout(timeout);
        stop?.();
        resolve();
      }
      stop = effect(() => {
        this.rooms.changed.value;
        if (this.rooms.get(roomId)?.membership.value === "join") queueMicrotask(done);
      });
    });
    return roomId;
  }
}

export function isDirectInvitation(room: Room): boolean {
  return room.ownMember.value?.content["is_direct"] === true;
}
