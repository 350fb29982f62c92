// Everything that there is for one user who is logged in.

import { effect } from "@preact/signals";
import { Sending } from "./composing/sendQueue.ts";
import { Profile } from "./people/ownProfile.ts";
import { People } from "./people/presence.ts";
import { Profiles } from "./people/userProfiles.ts";
import { announcePresence, Moderation } from "./rooms/roomAdministration.ts";
import { Directory } from "./rooms/roomDirectory.ts";
import { Founding } from "./rooms/roomEntry.ts";
import { Rooms } from "./rooms/roomStore.ts";
import type { Api } from "./server/api.ts";
import type { SyncUpdate } from "./server/events.ts";
import { Live } from "./server/liveConnection.ts";
import { Media } from "./server/media.ts";
import { Parlour } from "./server/parlourApi.ts";
import { Account } from "./settings/accountData.ts";
import { Security } from "./settings/accountSecurity.ts";
import { PushRules } from "./settings/pushRules.ts";

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
  readonly parlour: Parlour;
  readonly directory: Directory;
  readonly founding: Founding;
  readonly moderation: Moderation;
  readonly profile: Profile;
  readonly profiles: Profiles;
  readonly security: Security;
  readonly push: PushRules;
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
    this.parlour = new Parlour(api);
    this.directory = new Directory(api);
    this.founding = new Founding(api, this.rooms, this.account, this.directory, this.parlour);
    this.moderation = new Moderation(api, this.parlour);
    this.profile = new Profile(api, me);
    this.profiles = new Profiles(api);
    this.security = new Security(api, me);
    this.push = new PushRules(api);
  }

  start(): void {
    this.ended.push(
      effect(() => this.rooms.setDirect(this.account.direct.value)),
      effect(() => {
        if (this.live.connection.value === "online") this.sending.retryAll(this.rooms.joined.peek());
      }),
    );
    this.live.start();
    // The name that stands in the id is shown until then; a change of the profile asks again.
    this.profile.load().catch(() => {});
  }

  stop(): void {
    for (const end of this.ended) end();
    this.live.stop();
  }

  /** Lets others see when this user is here, or not, from now on. */
  async showPresence(shown: boolean): Promise<void> {
    await this.account.changeSettings({ showPresence: shown });
    await announcePresence(this.api, this.live, this.me, shown);
  }

  private update(update: SyncUpdate): void {
    this.account.update(update);
    this.rooms.update(update);
    this.people.update(update);
    this.profile.update(update);
  }
}
