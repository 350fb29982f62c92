import { useEffect, useMemo, useState } from "preact/hooks";
import { Composer } from "../../../model/composing/composer.ts";
import { messageOf } from "../../../model/server/api.ts";
import { useClient } from "../../clientContext.ts";
import { IconButton } from "../../components/IconButton.tsx";
import { sidePanel } from "../../sidePanel.ts";
import { ComposerArea } from "../composer/ComposerArea.tsx";
import { createDrafts, RoomContext, type RoomContextValue, useRoomContext } from "../roomContext.ts";
import { MessageList } from "../timeline/MessageList.tsx";
import { usePendingList } from "../timeline/RoomTimeline.tsx";

/** The panel with a thread of the room. */
export function ThreadPanel({ root }: { root: string }) {
  const client = useClient();
  const roomContext = useRoomContext();
  const { room, conversation } = roomContext;
  // After a gap that is too large the thread is loaded again.
  const resets = room.timeline.resets.value;
  const thread = useMemo(() => conversation.openThread(root), [root, resets]);
  const [problem, setProblem] = useState<string | null>(null);
  useEffect(() => thread.followRoom(), [thread]);
  thread.changed.value;
  room.timeline.changed.value;

  const context: RoomContextValue = useMemo(() => {
    const last = () => thread.events.findLast((event) => event.relation.type === "m.thread" && !event.isRedacted)?.id ?? root;
    const composer = new Composer(client, conversation, createDrafts(client), { root, last, get: (id) => thread.get(id) });
    return { ...roomContext, composer, thread: root };
  }, [thread]);
  const pending = room.timeline.pending.filter(({ relation }) => relation.type === "m.thread" && relation.target === root);
  const load = () => void thread.loadBack().catch((error: unknown) => setProblem(messageOf(error)));
  return (
    <RoomContext.Provider value={context}>
      <aside class="side-panel" aria-label="Thread">
        <header>
          <h2>Thread</h2>
          <IconButton icon="close" label="Close thread" onClick={() => (sidePanel.value = null)} />
        </header>
        <MessageList
          timeline={thread}
          pending={usePendingList(pending)}
          isLive
          label="Messages of the thread"
          thread={root}
          loadBack={thread.canGoBack && problem === null ? load : null}
          beginning={
            problem !== null ? (
              <div class="more" role="alert">
                {problem}{" "}
                <button type="button" class="button small" onClick={() => setProblem(null)}>
                  Try again
                </button>
              </div>
            ) : (
              thread.canGoBack && (
                <div class="more">
                  <span class="spinner" />
                </div>
              )
            )
          }
        />
        <ComposerArea />
      </aside>
    </RoomContext.Provider>
  );
}
