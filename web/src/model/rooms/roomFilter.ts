// Selects the rooms that the list shows.

import type { Room } from "./room.ts";

export type RoomFilter = "all" | "unread" | "direct" | "rooms";

export function filterRooms(rooms: Room[], filter: RoomFilter, search: string): Room[] {
  const words = foldForSearch(search)
    .split(/\s+/)
    .filter((word) => word !== "");
  return rooms.filter((room) => matchesFilter(room, filter) && matchesWords(room, words));
}

function matchesFilter(room: Room, filter: RoomFilter): boolean {
  switch (filter) {
    case "unread":
      return room.unread.value.count > 0;
    case "direct":
      return room.directWith.value !== null;
    case "rooms":
      return room.directWith.value === null;
    default:
      return true;
  }
}

function matchesWords(room: Room, words: string[]): boolean {
  if (words.length === 0) return true;
  const names = foldForSearch(`${room.name.value} ${room.alias.value ?? ""} ${room.directWith.value ?? ""}`);
  return words.every((word) => names.includes(word));
}

/** Removes case and accents, so that "uber" finds "Über". */
export function foldForSearch(text: string): string {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLocaleLowerCase();
}
