import { useEffect, useState } from "preact/hooks";
import { type Attachment, sizeText } from "../../../model/composing/attachment.ts";
import { withSafeType } from "../../../model/server/media.ts";
import { Icon } from "../../components/Icon.tsx";
import { IconButton } from "../../components/IconButton.tsx";
import { useRoomContext } from "../roomContext.ts";

/** The files that are about to be sent. */
export function AttachmentList({ isSending }: { isSending: boolean }) {
  const { conversation, thread } = useRoomContext();
  const files = conversation.attachmentsIn(thread);
  if (files.value.length === 0) return null;
  const remove = (file: Attachment) => {
    file.cancel();
    files.value = files.value.filter((other) => other !== file);
  };
  return (
    <ul class="files" aria-label="Files to send">
      {files.value.map((file) => (
        <AttachmentItem key={file.key} attachment={file} isSending={isSending} onRemove={() => remove(file)} />
      ))}
    </ul>
  );
}

function AttachmentItem({ attachment, isSending, onRemove }: { attachment: Attachment; isSending: boolean; onRemove: () => void }) {
  const { file } = attachment;
  const preview = usePreview(attachment);
  const state = attachment.state.value;
  const problem = attachment.problem.value;
  return (
    <li class={`file${problem === null ? "" : " failed"}`}>
      <span class="file-preview">{preview === undefined ? <Icon name="file" /> : <img src={preview} alt="" />}</span>
      <span class="file-words">
        <bdi class="ellipsis">{file.name}</bdi>
        {problem === null ? (
          <span class="file-size">{sizeText(file.size)}</span>
        ) : (
          <span class="problem" role="alert">
            {problem}
          </span>
        )}
        {state === "uploading" && <progress aria-label={`Uploading ${file.name}`} max={1} value={attachment.progress.value} />}
      </span>
      <IconButton
        icon="close"
        label={state === "uploading" ? `Cancel ${file.name}` : `Remove ${file.name}`}
        disabled={isSending && state === "ready"}
        onClick={onRemove}
      />
    </li>
  );
}

function usePreview(attachment: Attachment): string | undefined {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    if (!attachment.isImage) return;
    const objectUrl = URL.createObjectURL(withSafeType(attachment.file));
    setUrl(objectUrl);
    return () => URL.revokeObjectURL(objectUrl);
  }, [attachment]);
  return url;
}
