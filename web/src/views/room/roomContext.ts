// Where in the page a message or a composer stands: which room, and which thread of it.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Client } from "../../model/client.ts";
import type { Composer } from "../../model/composing/composer.ts";
import { Drafts } from "../../model/composing/drafts.ts";
import type { Room } from "../../model/rooms/room.ts";
import { Conversation } from "../../model/timeline/conversation.ts";

export interface Place {
  room: Room;
  conversation: Conversation;
  composer: Composer;
  /** The root of the thread, in its panel. */
  thread?: string | undefined;
  /** Shows an event, wherever it is. */
  goTo: (eventId: string) => void;
}

export const PlaceContext = createContext<Place | null>(null);

export function usePlace(): Place {
  const place = useContext(PlaceContext);
  if (place === null) throw new Error("This view stands outside of a room.");
  return place;
}

const conversations = new WeakMap<Room, Conversation>();

/** The conversation of a room: one for as long as the room is known, so that uploads go on when one looks elsewhere. */
export function conversationOf(chat: Client, room: Room): Conversation {
  const conversation = conversations.get(room) ?? new Conversation(chat, room);
  conversations.set(room, conversation);
  return conversation;
}

export function draftsOf(chat: Client): Drafts {
  return new Drafts(localStorage, chat.me);
}
