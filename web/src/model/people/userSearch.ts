// Searches for users of this server and for those of other servers that it knows.

import { parseAddress } from "../rooms/roomDirectory.ts";
import type { Api } from "../server/api.ts";
import { localpart } from "../server/matrixId.ts";
import type { ParlourApi, ServerUser } from "../server/parlourApi.ts";
import { type Presence, parsePresence } from "./presence.ts";

export interface FoundUser {
  id: string;
  name: string;
  avatar: string | undefined;
}

const MAX_RESULTS = 12;

/** Returns the users whose names start with the text, and the user whose full id it is. */
export async function searchUsers(api: Api, parlour: ParlourApi, typed: string): Promise<FoundUser[]> {
  const search = typed.trim();
  const here = parlour.users(search.replace(/^@/, ""), undefined, MAX_RESULTS).then(({ users }) => users.map(toFoundUser));
  const elsewhere = search.length < 2 ? Promise.resolve([]) : searchUserDirectory(api, search);
  const answers = await Promise.allSettled([here, elsewhere]);
  const known = answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  const failed = answers.find((answer) => answer.status === "rejected");
  if (known.length === 0 && failed !== undefined) throw failed.reason;
  const address = parseAddress(search);
  if (address?.kind === "user") known.push({ id: address.id, name: localpart(address.id), avatar: undefined });
  return known.filter(({ id }, at) => known.findIndex((other) => other.id === id) === at).slice(0, MAX_RESULTS);
}

export function toFoundUser({ user_id, displayname, avatar_url }: ServerUser): FoundUser {
  return { id: user_id, name: displayname?.trim() || localpart(user_id), avatar: avatar_url ?? undefined };
}

export function toPresenceEntry({ user_id, presence, last_active_ts, status_msg }: ServerUser): [string, Presence] {
  return [user_id, { presence: parsePresence(presence), lastActive: last_active_ts ?? undefined, status: status_msg ?? undefined }];
}

async function searchUserDirectory(api: Api, search: string): Promise<FoundUser[]> {
  interface Entry {
    user_id: string;
    display_name?: string;
    avatar_url?: string;
  }
  const { results } = await api.post<{ results: Entry[] }>("/_matrix/client/v3/user_directory/search", { search_term: search, limit: MAX_RESULTS });
  return results.map(({ user_id, display_name, avatar_url }) => ({
    id: user_id,
    name: display_name?.trim() || localpart(user_id),
    avatar: avatar_url,
  }));
}
