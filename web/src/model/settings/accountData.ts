// The user's account data: settings that apply on every device.

import { signal } from "@preact/signals";
import { type Api, path } from "../server/api.ts";
import { asRecord, asStrings, type Content, type SyncUpdate } from "../server/events.ts";

/** The settings of the page that are stored in the account. */
export interface PageSettings {
  /** Whether others see when this user is online. */
  showPresence: boolean;
  /** Whether others see what this user has read. */
  sendReceipts: boolean;
  theme: "system" | "light" | "dark";
}

const SETTINGS_TYPE = "dev.parlour.settings";
const DEFAULT_SETTINGS: PageSettings = { showPresence: true, sendReceipts: true, theme: "system" };

export class AccountData {
  readonly settings = signal<PageSettings>(DEFAULT_SETTINGS);
  readonly directChats = signal<Content>({});
  readonly ignoredUsers = signal<string[]>([]);
  readonly pushRules = signal<Content>({});

  constructor(
    private readonly api: Api,
    private readonly me: string,
  ) {}

  update(update: SyncUpdate): void {
    for (const { type, content } of update.account_data?.events ?? []) {
      if (type === SETTINGS_TYPE) this.settings.value = { ...DEFAULT_SETTINGS, ...(content as Partial<PageSettings>) };
      if (type === "m.direct") this.directChats.value = content;
      if (type === "m.ignored_user_list") this.ignoredUsers.value = Object.keys(asRecord(content["ignored_users"]) ?? {});
      if (type === "m.push_rules") this.pushRules.value = content;
    }
  }

  async changeSettings(change: Partial<PageSettings>): Promise<void> {
    const settings = { ...this.settings.value, ...change };
    this.settings.value = settings;
    await this.put(SETTINGS_TYPE, { ...settings });
  }

  /** Marks a room as a direct chat with a user. */
  async addDirectChat(userId: string, roomId: string): Promise<void> {
    const ids = new Set([...asStrings(this.directChats.value[userId]), roomId]);
    const direct = { ...this.directChats.value, [userId]: [...ids] };
    this.directChats.value = direct;
    await this.put("m.direct", direct);
  }

  /** Starts or stops ignoring a user. */
  async setIgnored(userId: string, ignored: boolean): Promise<void> {
    const others = this.ignoredUsers.value.filter((other) => other !== userId);
    const all = ignored ? [...others, userId] : others;
    await this.put("m.ignored_user_list", { ignored_users: Object.fromEntries(all.map((id) => [id, {}])) });
    this.ignoredUsers.value = all;
  }

  private async put(type: string, content: Content): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/user/${this.me}/account_data/${type}`, content);
  }
}
