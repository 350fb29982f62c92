import { UserFacingError } from "../../model/server/api.ts";
import { IconButton } from "./IconButton.tsx";
import { attempt, showToast } from "./Toasts.tsx";

/** Copies a text to the clipboard. */
export function CopyButton({ text, label }: { text: string; label: string }) {
  const copy = async () => {
    if (await attempt(async () => copyToClipboard(text))) showToast("Copied.");
  };
  return <IconButton icon="copy" label={label} onClick={() => void copy()} />;
}

async function copyToClipboard(text: string): Promise<void> {
  // Browsers offer the clipboard only on pages from https or localhost.
  const clipboard = navigator.clipboard as Clipboard | undefined;
  if (clipboard === undefined) throw new UserFacingError("This browser allows copying only over https. Select the text and copy it.");
  await clipboard.writeText(text);
}
