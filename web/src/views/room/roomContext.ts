// Where in the page a message or a composer stands: which room, and which thread of it.

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
  /** The root of the thread, in its panel. */
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

/** The conversation of a room: one for as long as the room is known, so that uploads go on when one looks elsewhere. */
export function conversationOf(client: Client, room: Room): Conversation {
  const conversation = conversations.get(room) ?? new Conversation(client, room);
  conversations.set(room, conversation);
  return conversation;
}

export function createDrafts(client: Client): Drafts {
  return new Drafts(localStorage, client.me);
}
