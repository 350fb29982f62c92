// Finding people: those of this server, and those whom it knows of elsewhere.

import { localpart } from "../rooms/room.ts";
import { parseAddress } from "../rooms/roomDirectory.ts";
import type { Api } from "../server/api.ts";
import type { Parlour, ServerUser } from "../server/parlourApi.ts";
import { type Presence, presenceOf } from "./presence.ts";

export interface Found {
  id: string;
  name: string;
  avatar: string | undefined;
}

const MOST = 12;

/** The people whose names begin like this, and the one whose whole id was typed. */
export async function findPeople(api: Api, parlour: Parlour, typed: string): Promise<Found[]> {
  const search = typed.trim();
  const here = parlour.users(search.replace(/^@/, ""), undefined, MOST).then(({ users }) => users.map(foundOf));
  const elsewhere = search.length < 2 ? Promise.resolve([]) : inDirectory(api, search);
  const answers = await Promise.allSettled([here, elsewhere]);
  const known = answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
  const failed = answers.find((answer) => answer.status === "rejected");
  if (known.length === 0 && failed !== undefined) throw failed.reason;
  const address = parseAddress(search);
  if (address?.kind === "user") known.push({ id: address.id, name: localpart(address.id), avatar: undefined });
  return known.filter(({ id }, at) => known.findIndex((other) => other.id === id) === at).slice(0, MOST);
}

export function foundOf({ user_id, displayname, avatar_url }: ServerUser): Found {
  return { id: user_id, name: displayname?.trim() || localpart(user_id), avatar: avatar_url ?? undefined };
}

export function seenOf({ user_id, presence, last_active_ts, status_msg }: ServerUser): [string, Presence] {
  return [user_id, { presence: presenceOf(presence), lastActive: last_active_ts ?? undefined, status: status_msg ?? undefined }];
}

async function inDirectory(api: Api, search: string): Promise<Found[]> {
  interface Entry {
    user_id: string;
    display_name?: string;
    avatar_url?: string;
  }
  const { results } = await api.post<{ results: Entry[] }>("/_matrix/client/v3/user_directory/search", { search_term: search, limit: MOST });
  return results.map(({ user_id, display_name, avatar_url }) => ({
    id: user_id,
    name: display_name?.trim() || localpart(user_id),
    avatar: avatar_url,
  }));
}
