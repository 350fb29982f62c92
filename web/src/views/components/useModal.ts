import { useEffect, useId, useRef } from "preact/hooks";

/** Shows a `<dialog>` above the page. Escape closes it, and the focus returns to where it was. */
export function useModal(onClose: () => void) {
  const dialog = useRef<HTMLDialogElement>(null);
  const titleId = useId();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current?.showModal();
    return () => {
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  const onCancel = (event: Event) => {
    event.preventDefault();
    onClose();
  };
  return { titleId, dialogProps: { ref: dialog, "aria-labelledby": titleId, onCancel } };
}
