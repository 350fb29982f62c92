// Form controls: fields with labels, and a form that shows its errors.

import type { AllHTMLAttributes, ComponentChildren, InputHTMLAttributes } from "preact";
import { useId, useState } from "preact/hooks";
import { messageOf } from "../../model/server/api.ts";

type FieldProps = Omit<AllHTMLAttributes<HTMLInputElement>, "label" | "role"> & {
  label: string;
  hint?: string;
};

/** Preact's types distinguish the kinds of inputs; these fields accept any. */
type InputAttributes = InputHTMLAttributes<HTMLInputElement>;

export function Field({ label, hint, ...rest }: FieldProps) {
  const id = useId();
  return (
    <div class="field">
      <label class="label" for={id}>
        {label}
      </label>
      <input id={id} class="input" aria-describedby={hint === undefined ? undefined : `${id}-hint`} {...(rest as InputAttributes)} />
      {hint !== undefined && (
        <span class="hint" id={`${id}-hint`}>
          {hint}
        </span>
      )}
    </div>
  );
}

export function Check({ label, hint, ...rest }: FieldProps) {
  return (
    <label class="check">
      <input {...({ ...rest, type: "checkbox" } as InputAttributes)} />
      <span>
        {label}
        {hint !== undefined && <span class="hint">{hint}</span>}
      </span>
    </label>
  );
}

interface FormProps {
  /** Submits the form; a thrown error is shown. */
  onSubmit: (data: FormData) => Promise<void>;
  submit: string;
  danger?: boolean;
  disabled?: boolean;
  children?: ComponentChildren;
  /** Shown next to the submit button. */
  extraButton?: ComponentChildren;
}

export function Form({ onSubmit, submit, danger = false, disabled = false, children, extraButton }: FormProps) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<string | null>(null);
  const run = async (event: SubmitEvent) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setProblem(null);
    try {
      await onSubmit(new FormData(event.currentTarget as HTMLFormElement));
    } catch (error) {
      setProblem(messageOf(error));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form class="stack" onSubmit={(event) => void run(event as unknown as SubmitEvent)}>
      {children}
      <p class="problem" role="alert" hidden={problem === null}>
        {problem}
      </p>
      <div class="row end">
        {extraButton}
        <button type="submit" class={`button ${danger ? "danger" : "primary"}`} disabled={busy || disabled}>
          {submit}
        </button>
      </div>
    </form>
  );
}
