import type { ComponentChildren } from "preact";
import { Dialog } from "./Dialog.tsx";
import { Form } from "./Form.tsx";

interface Props {
  title: string;
  /** The text of the button that confirms. */
  submit: string;
  danger?: boolean;
  disabled?: boolean;
  onConfirm: (data: FormData) => Promise<void>;
  onClose: () => void;
  children: ComponentChildren;
}

/** A dialog with a form that closes when the form has succeeded. */
export function ConfirmDialog({ title, submit, danger = false, disabled = false, onConfirm, onClose, children }: Props) {
  const run = async (data: FormData) => {
    await onConfirm(data);
    onClose();
  };
  const cancel = (
    <button type="button" class="button" onClick={onClose}>
      Cancel
    </button>
  );
  return (
    <Dialog title={title} onClose={onClose}>
      <Form onSubmit={run} submit={submit} danger={danger} disabled={disabled} extraButton={cancel}>
        {children}
      </Form>
    </Dialog>
  );
}
