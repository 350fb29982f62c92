// All models of one signed-in user.

import { effect } from "@preact/signals";
import { SendQueue } from "./composing/sendQueue.ts";
import { OwnProfile } from "./people/ownProfile.ts";
import { announcePresence, PresenceStore } from "./people/presence.ts";
import { UserProfiles } from "./people/userProfiles.ts";
import { RoomAdministration } from "./rooms/roomAdministration.ts";
import { RoomDirectory } from "./rooms/roomDirectory.ts";
import { RoomEntry } from "./rooms/roomEntry.ts";
import { RoomStore } from "./rooms/roomStore.ts";
import type { Api } from "./server/api.ts";
import type { SyncUpdate } from "./server/events.ts";
import { LiveConnection } from "./server/liveConnection.ts";
import { Media } from "./server/media.ts";
import { ParlourApi } from "./server/parlourApi.ts";
import type { BrowserStorage } from "./session/session.ts";
import { AccountData } from "./settings/accountData.ts";
import { AccountSecurity } from "./settings/accountSecurity.ts";
import { PushRules } from "./settings/pushRules.ts";
import { type PushBrowser, WebPush } from "./settings/webPush.ts";

const SYNC_FILTER = {
  room: {
    state: { lazy_load_members: true },
    timeline: { limit: 20, lazy_load_members: true },
  },
};

export class Client {
  readonly rooms: RoomStore;
  readonly accountData: AccountData;
  readonly presences = new PresenceStore();
  readonly media: Media;
  readonly connection: LiveConnection;
  readonly sendQueue: SendQueue;
  readonly parlourApi: ParlourApi;
  readonly roomDirectory: RoomDirectory;
  readonly roomEntry: RoomEntry;
  readonly roomAdministration: RoomAdministration;
  readonly ownProfile: OwnProfile;
  readonly userProfiles: UserProfiles;
  readonly accountSecurity: AccountSecurity;
  readonly pushRules: PushRules;
  readonly webPush: WebPush;
  private readonly cleanups: (() => void)[] = [];

  constructor(
    readonly api: Api,
    readonly me: string,
    readonly deviceId: string,
    storage: BrowserStorage,
    pushBrowser: PushBrowser,
  ) {
    this.rooms = new RoomStore(api, me);
    this.accountData = new AccountData(api, me);
    this.media = new Media(api);
    const presence = () => (this.accountData.settings.value.showPresence ? "online" : "offline");
    this.connection = new LiveConnection(api, { filter: SYNC_FILTER, presence }, (update) => this.update(update));
    this.sendQueue = new SendQueue(api, this.connection, me);
    this.parlourApi = new ParlourApi(api);
    this.roomDirectory = new RoomDirectory(api);
    this.roomEntry = new RoomEntry(api, this.rooms, this.accountData, this.roomDirectory, this.parlourApi);
    this.roomAdministration = new RoomAdministration(api, this.parlourApi);
    this.ownProfile = new OwnProfile(api, me);
    this.userProfiles = new UserProfiles(api);
    this.accountSecurity = new AccountSecurity(api, me);
    this.pushRules = new PushRules(api);
    this.webPush = new WebPush(api, deviceId, storage, pushBrowser);
  }

  start(): void {
    this.cleanups.push(
      effect(() => this.rooms.setDirectChats(this.accountData.directChats.value)),
      effect(() => {
        if (this.connection.state.value !== "online") return;
        this.sendQueue.retryAll(this.rooms.joined.peek());
        if (!this.webPush.isActive.peek()) void this.webPush.resume();
      }),
    );
    this.connection.start();
    // Until the profile is loaded, the name from the user id is shown. A changed profile is loaded again.
    this.ownProfile.load().catch(() => {});
    // The settings load it again if this fails.
    this.webPush.loadOffer().catch(() => {});
  }

  stop(): void {
    for (const end of this.cleanups) end();
    this.connection.stop();
    this.webPush.stop();
  }

  /** Shows or hides this user's presence, starting now. */
  async setPresenceShown(shown: boolean): Promise<void> {
    await this.accountData.changeSettings({ showPresence: shown });
    await announcePresence(this.api, this.connection, this.me, shown);
  }

  private update(update: SyncUpdate): void {
    this.accountData.update(update);
    this.rooms.update(update);
    this.presences.update(update);
    this.ownProfile.update(update);
  }
}
