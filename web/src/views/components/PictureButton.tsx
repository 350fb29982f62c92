import "./PictureButton.css";
import { useRef, useState } from "preact/hooks";
import { useClient } from "../clientContext.ts";
import { Avatar } from "./Avatar.tsx";
import { attempt } from "./Toasts.tsx";

interface Props {
  id: string;
  name: string;
  mxc: string | undefined;
  square?: boolean;
  /** Called with the uploaded picture, or with undefined to remove it. */
  onChange: (mxc: string | undefined) => Promise<void>;
}

/** A picture that can be changed or removed. */
export function PictureButton({ id, name, mxc, square = false, onChange }: Props) {
  const { media } = useClient();
  const input = useRef<HTMLInputElement>(null);
  const [progress, setProgress] = useState<number | null>(null);
  const upload = async (file: File | undefined) => {
    if (file === undefined) return;
    setProgress(0);
    await attempt(async () => onChange(await media.upload(file, file.name, setProgress)));
    setProgress(null);
    if (input.current !== null) input.current.value = "";
  };
  return (
    <div class="picture">
      <Avatar id={id} name={name} mxc={mxc} size="large" square={square} />
      <div class="stack">
        <div class="row">
          <button type="button" class="button small" disabled={progress !== null} onClick={() => input.current?.click()}>
            {mxc === undefined ? "Add a picture" : "Change picture"}
          </button>
          {mxc !== undefined && (
            <button type="button" class="button small" onClick={() => void attempt(async () => onChange(undefined))}>
              Remove
            </button>
          )}
        </div>
        {progress === null ? <span class="soft small-text">PNG, JPEG, WebP or GIF</span> : <progress value={progress} aria-label="Upload" />}
      </div>
      <input
        ref={input}
        type="file"
        accept="image/png,image/jpeg,image/webp,image/gif"
        hidden
        aria-label="Picture"
        onChange={(event) => void upload(event.currentTarget.files?.[0])}
      />
    </div>
  );
}
