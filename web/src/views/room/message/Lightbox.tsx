import { useEffect, useId, useRef } from "preact/hooks";
import { useFile } from "../../clientContext.ts";
import { IconButton } from "../../components/IconButton.tsx";
import { download } from "./MediaBody.tsx";

interface Props {
  mxc: string;
  name: string;
  onClose: () => void;
}

/** A picture over the whole page. Escape, the close button and a click outside close it. */
export function Lightbox({ mxc, name, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  const url = useFile(mxc);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      class="lightbox"
      aria-labelledby={titleId}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onKeyDown={(event) => event.stopPropagation()}
    >
      <header>
        <h2 id={titleId} class="ellipsis" dir="auto">
          {name}
        </h2>
        <IconButton icon="download" label="Download" disabled={url === undefined} onClick={() => url !== undefined && download(url, name)} />
        <IconButton icon="close" label="Close" onClick={onClose} />
      </header>
      <div class="stage" onClick={(event) => event.target === event.currentTarget && onClose()}>
        {url === undefined ? <span class="spinner" /> : <img src={url} alt={name} />}
      </div>
    </dialog>
  );
}
