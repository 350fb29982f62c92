import "./Dialog.css";
import type { ComponentChildren } from "preact";
import { IconButton } from "./IconButton.tsx";
import { useModal } from "./useModal.ts";

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/** A modal dialog. Escape, the close button and a click outside close it. */
export function Dialog({ title, onClose, children }: Props) {
  const { titleId, dialogProps } = useModal(onClose);
  return (
    <dialog
      {...dialogProps}
      class="dialog"
      onMouseDown={(event) => {
        if (event.target === event.currentTarget) onClose();
      }}
    >
      <header>
        <h2 id={titleId}>{title}</h2>
        <IconButton icon="close" label="Close" onClick={onClose} />
      </header>
      <div class="content">{children}</div>
    </dialog>
  );
}
