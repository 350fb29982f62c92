// The name and picture of the signed-in user.

import { signal } from "@preact/signals";
import { type Api, MatrixError, path } from "../server/api.ts";
import { asString, type SyncUpdate } from "../server/events.ts";
import { localpart } from "../server/matrixId.ts";

export class OwnProfile {
  readonly name = signal("");
  readonly avatar = signal<string | undefined>(undefined);

  constructor(
    private readonly api: Api,
    private readonly me: string,
  ) {
    this.name.value = localpart(me);
  }

  async load(): Promise<void> {
    try {
      const profile = await this.api.get<Record<string, unknown>>(path`/_matrix/client/v3/profile/${this.me}`);
      this.name.value = asString(profile["displayname"])?.trim() || localpart(this.me);
      this.avatar.value = asString(profile["avatar_url"]) || undefined;
    } catch (error) {
      // The server answers 404 for a user who never set a profile.
      if (!(error instanceof MatrixError) || error.status !== 404) throw error;
    }
  }

  /** Loads the profile again when a room shows that it changed. */
  update(update: SyncUpdate): void {
    const rooms = Object.values(update.rooms?.join ?? {});
    const events = rooms.flatMap((room) => room.timeline?.events ?? []);
    const changed = events.some(
      ({ type, state_key, unsigned }) => type === "m.room.member" && state_key === this.me && unsigned?.prev_content?.["membership"] === "join",
    );
    if (changed) this.load().catch(() => {});
  }

  async setName(name: string): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/profile/${this.me}/displayname`, { displayname: name });
    this.name.value = name.trim() || localpart(this.me);
  }

  /** Sets the picture to an uploaded file, or removes it. */
  async setAvatar(mxc: string | undefined): Promise<void> {
    await this.api.put(path`/_matrix/client/v3/profile/${this.me}/avatar_url`, { avatar_url: mxc ?? "" });
    this.avatar.value = mxc;
  }
}
