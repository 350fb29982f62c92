// Everything that there is for one user who is logged in.

import { effect } from "@preact/signals";
import { Account } from "./account.ts";
import type { Api } from "./api.ts";
import type { SyncUpdate } from "./events.ts";
import { Live } from "./live.ts";
import { Media } from "./media.ts";
import { People } from "./presence.ts";
import { Rooms } from "./rooms.ts";
import { Sending } from "./sending.ts";

const FILTER = {
  room: {
    state: { lazy_load_members: true },
    timeline: { limit: 20, lazy_load_members: true },
  },
};

export class Chat {
  readonly rooms: Rooms;
  readonly account: Account;
  readonly people = new People();
  readonly media: Media;
  readonly live: Live;
  readonly sending: Sending;
  private readonly ended: (() => void)[] = [];

  constructor(
    readonly api: Api,
    readonly me: string,
    readonly deviceId: string,
  ) {
    this.rooms = new Rooms(api, me);
    this.account = new Account(api, me);
    this.media = new Media(api);
    const presence = () => (this.account.settings.value.showPresence ? "online" : "offline");
    this.live = new Live(api, { filter: FILTER, presence }, (update) => this.update(update));
    this.sending = new Sending(api, this.live, me);
  }

  start(): void {
    this.ended.push(
      effect(() => this.rooms.setDirect(this.account.direct.value)),
      effect(() => {
        if (this.live.connection.value === "online") this.sending.retryAll(this.rooms.joined.peek());
      }),
    );
    this.live.start();
  }

  stop(): void {
    for (const end of this.ended) end();
    this.live.stop();
  }

  private update(update: SyncUpdate): void {
    this.account.update(update);
    this.rooms.update(update);
    this.people.update(update);
  }
}
