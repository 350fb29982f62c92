// The profiles of other users.

import { type Api, MatrixError, path } from "../server/api.ts";
import { asString, asStrings } from "../server/events.ts";
import { localpart } from "../server/matrixId.ts";

export class UserProfiles {
  constructor(private readonly api: Api) {}

  async fetchProfile(userId: string): Promise<{ name: string; avatar: string | undefined }> {
    const profile = await this.api.get<Record<string, unknown>>(path`/_matrix/client/v3/profile/${userId}`).catch((error: unknown) => {
      // The server answers 404 for a user who never set a profile.
      if (error instanceof MatrixError && error.status === 404) return {} as Record<string, unknown>;
      throw error;
    });
    return { name: asString(profile["displayname"])?.trim() || localpart(userId), avatar: asString(profile["avatar_url"]) || undefined };
  }

  /** Returns the ids of the rooms that both users are in; only the first page. */
  async sharedRooms(userId: string): Promise<string[]> {
    const { joined } = await this.api.get<{ joined: unknown }>("/_matrix/client/v1/mutual_rooms", { user_id: userId });
    return asStrings(joined);
  }
}
