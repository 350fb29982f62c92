// Finds rooms: in the list of public rooms, by alias, and by pasted addresses.

import { type Api, path } from "../server/api.ts";
import { decodeUriPart } from "../server/decodeUriPart.ts";

export interface PublicRoom {
  room_id: string;
  name?: string;
  topic?: string;
  avatar_url?: string;
  canonical_alias?: string;
  num_joined_members: number;
  world_readable?: boolean;
  join_rule?: string;
  room_type?: string;
}

export interface PublicRooms {
  chunk: PublicRoom[];
  next_batch?: string;
  total_room_count_estimate?: number;
}

export class RoomDirectory {
  constructor(private readonly api: Api) {}

  async publicRooms(search: string, since?: string, limit = 30, server?: string): Promise<PublicRooms> {
    const filter = search === "" ? {} : { filter: { generic_search_term: search } };
    const query = server === undefined ? "" : `?server=${encodeURIComponent(server)}`;
    return this.api.post(`/_matrix/client/v3/publicRooms${query}`, { limit, ...filter, ...(since === undefined ? {} : { since }) });
  }

  /** Joins a room by id or alias. Returns the room id. */
  async join(address: string, via: string[] = []): Promise<string> {
    return this.joinOrKnock("join", address, via, {});
  }

  /** Knocks on a room. */
  async knock(address: string, via: string[] = [], reason?: string): Promise<string> {
    return this.joinOrKnock("knock", address, via, reason === undefined ? {} : { reason });
  }

  private async joinOrKnock(how: "join" | "knock", address: string, via: string[], body: unknown): Promise<string> {
    const query = via.map((server) => `server_name=${encodeURIComponent(server)}&via=${encodeURIComponent(server)}`).join("&");
    const where = path`/_matrix/client/v3/` + how + path`/${address}`;
    return (await this.api.post<{ room_id: string }>(`${where}${query === "" ? "" : `?${query}`}`, body)).room_id;
  }
}

/** The room or user that a typed or pasted address points to. */
export type MatrixAddress = { kind: "room"; id: string; via: string[] } | { kind: "user"; id: string };

/** Parses `#room:server`, `!id:server`, `@user:server`, `matrix:` addresses and matrix.to links. */
export function parseAddress(typed: string): MatrixAddress | null {
  const text = typed.trim();
  if (/^[#!@][^\s]+$/.test(text)) return addressOf(text, []);
  const uri = /^matrix:(?:\/\/[^/]*\/)?(r|roomid|u)\/([^/?#]+)[^?]*(?:\?(.*))?$/.exec(text);
  if (uri !== null) {
    const sigil = { r: "#", roomid: "!", u: "@" }[uri[1] as "r" | "roomid" | "u"];
    return addressOf(sigil + decodeUriPart(uri[2]!), viaOf(uri[3]));
  }
  const link = /^https?:\/\/matrix\.to\/#\/([^/?]+)[^?]*(?:\?(.*))?$/.exec(text);
  return link === null ? null : addressOf(decodeUriPart(link[1]!), viaOf(link[2]));
}

function addressOf(id: string, via: string[]): MatrixAddress | null {
  // The newest room versions have no server name in the room id.
  if (id.startsWith("!") && id.length > 1) return { kind: "room", id, via };
  if (!/^[#@][^\s:]+:[^\s]+$/.test(id)) return null;
  return id.startsWith("@") ? { kind: "user", id } : { kind: "room", id, via };
}

function viaOf(query: string | undefined): string[] {
  return new URLSearchParams(query ?? "").getAll("via").slice(0, 5);
}
