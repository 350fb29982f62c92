import { Attachment } from "../../../model/composing/attachment.ts";
import { useChat } from "../../clientContext.ts";
import { tell } from "../../components/Toasts.tsx";
import { usePlace } from "../roomContext.ts";
import { measure } from "./measureFile.ts";

/** So many files are sent at once. */
const MOST = 20;

/** Puts files into the composer. */
export function useAddFiles(): (files: File[]) => void {
  const { media } = useChat();
  const { conversation, thread, composer } = usePlace();
  return (added) => {
    const files = conversation.attachmentsIn(thread);
    const free = MOST - files.value.length;
    if (added.length > free) tell(`At most ${MOST} files can be sent at once.`);
    files.value = [...files.value, ...added.slice(0, free).map((file) => new Attachment(file, media, measure))];
    composer.focusRequests.value += 1;
  };
}
