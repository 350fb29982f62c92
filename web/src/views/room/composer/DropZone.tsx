import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { useClient } from "../../clientContext.ts";
import { Icon } from "../../components/Icon.tsx";
import { useRoomContext } from "../roomContext.ts";
import { useAddFiles } from "./useAddFiles.ts";

/** Accepts files that are dropped on the conversation. */
export function DropZone({ children }: { children: ComponentChildren }) {
  const { room } = useRoomContext();
  const { me } = useClient();
  const [isOver, setOver] = useState(false);
  // Each element under the pointer fires its own enter and leave events.
  const depth = useRef(0);
  const addFiles = useAddFiles();
  const maySend = !room.encrypted.value && room.successor.value === undefined && room.powerLevels.value.maySend(me, "m.room.message");
  const hasFiles = (event: DragEvent) => maySend && (event.dataTransfer?.types.includes("Files") ?? false);
  const end = () => {
    depth.current = 0;
    setOver(false);
  };
  return (
    <div
      class="drop-zone"
      onDragEnter={(event) => {
        if (!hasFiles(event)) return;
        depth.current += 1;
        setOver(true);
      }}
      onDragLeave={(event) => {
        if (hasFiles(event) && --depth.current <= 0) end();
      }}
      onDragOver={(event) => {
        if (hasFiles(event)) event.preventDefault();
      }}
      onDrop={(event) => {
        if (!hasFiles(event)) return;
        event.preventDefault();
        end();
        addFiles([...(event.dataTransfer?.files ?? [])]);
      }}
    >
      {children}
      {isOver && (
        <div class="drop-hint">
          <Icon name="paperclip" />
          <p>
            Drop files to send them to <bdi>{room.name.value}</bdi>
          </p>
        </div>
      )}
    </div>
  );
}
