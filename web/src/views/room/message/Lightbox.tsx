import { useFile } from "../../clientContext.ts";
import { IconButton } from "../../components/IconButton.tsx";
import { useModal } from "../../components/useModal.ts";
import { download } from "./MediaBody.tsx";

interface Props {
  mxc: string;
  name: string;
  onClose: () => void;
}

/** A picture over the whole page. Escape, the close button and a click outside close it. */
export function Lightbox({ mxc, name, onClose }: Props) {
  const { titleId, dialogProps } = useModal(onClose);
  const url = useFile(mxc);
  return (
    <dialog {...dialogProps} class="lightbox" onKeyDown={(event) => event.stopPropagation()}>
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
