import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { IconButton } from "../../components/IconButton.tsx";
import { attempt } from "../../components/Toasts.tsx";
import { EmojiButton } from "../emoji/EmojiButton.tsx";
import { sanitizeForSending } from "../message/sanitizeHtml.ts";
import { useRoomContext } from "../roomContext.ts";
import { AttachmentList } from "./AttachmentList.tsx";
import { MentionSuggestions } from "./MentionSuggestions.tsx";
import { ReplyOrEditBar } from "./ReplyOrEditBar.tsx";
import { useAddFiles } from "./useAddFiles.ts";
import { useMentionCompletion } from "./useMentionCompletion.ts";

/** The text field for a message, with its buttons, files and suggestions. */
export function ComposerBox() {
  const { room, conversation, composer, thread } = useRoomContext();
  const field = useRef<HTMLTextAreaElement>(null);
  const fileInput = useRef<HTMLInputElement>(null);
  const addFiles = useAddFiles();
  const [isSending, setSending] = useState(false);
  const draft = composer.draft.value;
  const files = conversation.attachmentsIn(thread).value;
  const completion = useMentionCompletion(field);
  useAutoHeight(field, draft.text);

  const focusRequests = composer.focusRequests.value;
  useEffect(() => {
    // On a phone the keyboard opens only on request.
    if (focusRequests === 0 && matchMedia("(hover: none)").matches) return;
    const { current } = field;
    current?.focus();
    current?.setSelectionRange(current.value.length, current.value.length);
  }, [focusRequests]);

  const send = async () => {
    if (isSending) return;
    await attempt(async () => {
      if (files.length === 0) return composer.send(sanitizeForSending);
      setSending(true);
      await composer.sendAttachments(sanitizeForSending);
    });
    setSending(false);
    field.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing || completion.onKeyDown(event)) return;
    const isPlain = !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey;
    if (event.key === "Enter" && isPlain && !matchMedia("(hover: none)").matches) {
      event.preventDefault();
      void send();
    } else if (event.key === "ArrowUp" && isPlain && draft.text === "" && draft.editing === null) {
      if (composer.editLastMessage()) event.preventDefault();
    } else if (event.key === "Escape" && (draft.editing !== null || draft.replyTo !== null)) {
      event.preventDefault();
      event.stopPropagation();
      composer.cancel();
    }
  };
  const insert = (text: string) => {
    const { selectionStart = draft.text.length, selectionEnd = draft.text.length } = field.current ?? {};
    composer.setText(draft.text.slice(0, selectionStart) + text + draft.text.slice(selectionEnd));
    requestAnimationFrame(() => {
      field.current?.focus();
      field.current?.setSelectionRange(selectionStart + text.length, selectionStart + text.length);
    });
  };
  const name = thread === undefined ? room.name.value : "the thread";
  const isEmpty = draft.text.trim() === "" && files.length === 0;
  return (
    <div class="composer">
      <ReplyOrEditBar />
      <AttachmentList isSending={isSending} />
      <div class="composer-row">
        <IconButton icon="paperclip" label="Attach files" onClick={() => fileInput.current?.click()} />
        <input
          ref={fileInput}
          type="file"
          multiple
          hidden
          aria-label="Files to attach"
          onChange={(event) => {
            addFiles([...(event.currentTarget.files ?? [])]);
            event.currentTarget.value = "";
          }}
        />
        <div class="composer-field">
          {completion.isOpen && <MentionSuggestions completion={completion} />}
          <textarea
            ref={field}
            rows={1}
            dir="auto"
            aria-label={`Message to ${name}`}
            placeholder={files.length > 0 ? "Add a caption" : draft.editing === null ? "Write a message" : "Edit the message"}
            value={draft.text}
            {...completion.aria}
            onInput={(event) => {
              composer.setText(event.currentTarget.value);
              completion.update();
            }}
            onSelect={() => completion.update()}
            onBlur={() => completion.close()}
            onKeyDown={onKeyDown}
            onPaste={(event) => {
              const pasted = [...(event.clipboardData?.files ?? [])];
              if (pasted.length === 0) return;
              event.preventDefault();
              addFiles(pasted);
            }}
          />
        </div>
        <EmojiButton label="Emoji" onChoose={insert} above />
        <IconButton
          icon="send"
          label={draft.editing === null ? "Send" : "Save"}
          class="icon-button send"
          disabled={isEmpty || isSending}
          onClick={() => void send()}
        />
      </div>
    </div>
  );
}

/** Makes the field as high as its text, up to the limit in the style sheet. */
function useAutoHeight(field: { current: HTMLTextAreaElement | null }, text: string): void {
  useLayoutEffect(() => {
    const { current } = field;
    if (current === null) return;
    current.style.height = "auto";
    current.style.height = `${current.scrollHeight}px`;
  }, [text]);
}
