import { Attachment } from "../../../model/composing/attachment.ts";
import { useClient } from "../../clientContext.ts";
import { showToast } from "../../components/Toasts.tsx";
import { useRoomContext } from "../roomContext.ts";
import { measureFile } from "./measureFile.ts";

/** The most files that can be sent at once. */
const MAX_FILES = 20;

/** Returns a function that adds files to the composer. */
export function useAddFiles(): (files: File[]) => void {
  const { media } = useClient();
  const { conversation, thread, composer } = useRoomContext();
  return (added) => {
    const files = conversation.attachmentsIn(thread);
    const free = MAX_FILES - files.value.length;
    if (added.length > free) showToast(`At most ${MAX_FILES} files can be sent at once.`);
    files.value = [...files.value, ...added.slice(0, free).map((file) => new Attachment(file, media, measureFile))];
    composer.focusRequests.value += 1;
  };
}
