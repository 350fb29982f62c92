import { useEffect, useMemo } from "preact/hooks";
import { Composer } from "../../model/composing/composer.ts";
import type { Room } from "../../model/rooms/room.ts";
import { routeHref } from "../../model/route.ts";
import { useClient } from "../clientContext.ts";
import { attempt } from "../components/Toasts.tsx";
import { navigate } from "../currentRoute.ts";
import { Details } from "../details/Details.tsx";
import { sidePanel } from "../sidePanel.ts";
import { ComposerArea } from "./composer/ComposerArea.tsx";
import { DropZone } from "./composer/DropZone.tsx";
import { NewMessageAnnouncer } from "./NewMessageAnnouncer.tsx";
import { RoomHeader } from "./RoomHeader.tsx";
import { conversationOf, createDrafts, RoomContext, type RoomContextValue } from "./roomContext.ts";
import { SearchPanel } from "./search/SearchPanel.tsx";
import { TypingLine } from "./TypingLine.tsx";
import { ThreadPanel } from "./threads/ThreadPanel.tsx";
import { RoomTimeline } from "./timeline/RoomTimeline.tsx";

/** A joined room: the conversation and the side panel. */
export function JoinedRoom({ room, event }: { room: Room; event?: string | undefined }) {
  const client = useClient();
  const conversation = conversationOf(client, room);
  const composer = useMemo(() => new Composer(client, conversation, createDrafts(client)), [conversation]);

  const goTo = (eventId: string) =>
    void attempt(async () => {
      const root = await conversation.goTo(eventId);
      if (root !== null) sidePanel.value = { show: "thread", root };
    });
  useEffect(() => {
    if (event === undefined) return;
    goTo(event);
    // The address keeps only the room, so a reload starts at the newest message.
    navigate({ at: "room", id: room.id }, true);
  }, [event]);
  // A thread belongs to its room, so its panel closes with it; the search panel stays open.
  useEffect(() => {
    return () => {
      if (sidePanel.peek()?.show === "thread") sidePanel.value = null;
      conversation.typingNotifier.stopTyping();
      conversation.goToNewest();
    };
  }, [conversation]);

  const context: RoomContextValue = useMemo(() => ({ room, conversation, composer, goTo }), [composer]);
  const shown = sidePanel.value;
  return (
    <RoomContext.Provider value={context}>
      <div class={`room${shown === null ? "" : " with-panel"}`}>
        <section class="conversation" aria-label="Conversation">
          <RoomHeader />
          <DropZone>
            <RoomTimeline />
            <TypingLine />
            <ComposerArea />
          </DropZone>
          <NewMessageAnnouncer />
        </section>
        {shown?.show === "details" && <Details room={room} />}
        {shown?.show === "search" && <SearchPanel />}
        {shown?.show === "thread" && <ThreadPanel key={shown.root} root={shown.root} />}
      </div>
    </RoomContext.Provider>
  );
}

export function roomHref(id: string): string {
  return routeHref({ at: "room", id });
}
