// The room, and the thread if there is one, to which the views below belong.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Client } from "../../model/client.ts";
import type { Composer } from "../../model/composing/composer.ts";
import { Drafts } from "../../model/composing/drafts.ts";
import type { Room } from "../../model/rooms/room.ts";
import { Conversation } from "../../model/timeline/conversation.ts";

export interface RoomContextValue {
  room: Room;
  conversation: Conversation;
  composer: Composer;
  /** The root of the thread, in the thread panel. */
  thread?: string | undefined;
  /** Shows an event, wherever it is. */
  goTo: (eventId: string) => void;
}

export const RoomContext = createContext<RoomContextValue | null>(null);

export function useRoomContext(): RoomContextValue {
  const context = useContext(RoomContext);
  if (context === null) throw new Error("This view stands outside of a room.");
  return context;
}

const conversations = new WeakMap<Room, Conversation>();

/**
 * Returns the conversation of a room. It stays the same while the room is known, so that uploads continue when another
 * room is opened.
 */
export function conversationOf(client: Client, room: Room): Conversation {
  const conversation = conversations.get(room) ?? new Conversation(client, room);
  conversations.set(room, conversation);
  return conversation;
}

export function createDrafts(client: Client): Drafts {
  return new Drafts(localStorage, client.me);
}
