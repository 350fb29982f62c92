import "./PasswordField.css";
import { useId, useState } from "preact/hooks";

interface Props {
  label: string;
  name: string;
  autocomplete: "current-password" | "new-password";
  hint?: string;
  minLength?: number;
  onInput?: (value: string) => void;
}

/** A password field whose text can be shown. */
export function PasswordField({ label, name, autocomplete, hint, minLength, onInput }: Props) {
  const id = useId();
  const [shown, setShown] = useState(false);
  return (
    <div class="field">
      <label class="label" for={id}>
        {label}
      </label>
      <div class="password">
        <input
          id={id}
          class="input"
          name={name}
          type={(shown ? "text" : "password") as "password"}
          autocomplete={autocomplete}
          autocapitalize="none"
          spellcheck={false}
          minLength={minLength}
          required
          aria-describedby={hint === undefined ? undefined : `${id}-hint`}
          onInput={(event) => onInput?.(event.currentTarget.value)}
        />
        <button type="button" class="show" aria-pressed={shown} aria-label={`Show what is typed: ${label}`} onClick={() => setShown(!shown)}>
          {shown ? "Hide" : "Show"}
        </button>
      </div>
      {hint !== undefined && (
        <span class="hint" id={`${id}-hint`}>
          {hint}
        </span>
      )}
    </div>
  );
}
