import type { ExpiryChoice } from "../../model/server/parlourApi.ts";
import { Field } from "../components/Form.tsx";
import { Select } from "../components/Select.tsx";

const EXPIRY_CHOICES: { value: ExpiryChoice; label: string }[] = [
  { value: "never", label: "Never" },
  { value: "hour", label: "In 1 hour" },
  { value: "day", label: "In 1 day" },
  { value: "week", label: "In 1 week" },
  { value: "custom", label: "At a date…" },
];

interface Props {
  label: string;
  value: ExpiryChoice;
  onChange: (value: ExpiryChoice) => void;
  /** Whether "Never" is a choice. */
  allowsNever?: boolean;
}

/** A choice of expiry times. A custom date is in the form field `until`. */
export function ExpiryField({ label, value, onChange, allowsNever = true }: Props) {
  return (
    <>
      <Select
        label={label}
        value={value}
        onChange={(next) => onChange(next as ExpiryChoice)}
        options={allowsNever ? EXPIRY_CHOICES : EXPIRY_CHOICES.slice(1)}
      />
      {value === "custom" && <Field label="Date and time" name="until" type="datetime-local" min={toLocalInputValue(Date.now())} required />}
    </>
  );
}

/** Formats a time as the value of an input for a local date and time. */
function toLocalInputValue(time: number): string {
  const date = new Date(time);
  return new Date(time - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
