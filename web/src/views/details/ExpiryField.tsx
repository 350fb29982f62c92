import type { ExpiryChoice } from "../../model/server/parlourApi.ts";
import { Field } from "../components/Form.tsx";
import { Select } from "../components/Select.tsx";

const CHOICES: { value: ExpiryChoice; label: string }[] = [
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
  /** Whether it can stand without an end. */
  endless?: boolean;
}

/** Until when something holds. The date, where one is chosen, is the form's `until`. */
export function ExpiryField({ label, value, onChange, endless = true }: Props) {
  return (
    <>
      <Select label={label} value={value} onChange={(next) => onChange(next as ExpiryChoice)} options={endless ? CHOICES : CHOICES.slice(1)} />
      {value === "custom" && <Field label="Date and time" name="until" type="datetime-local" min={localTime(Date.now())} required />}
    </>
  );
}

/** A time as an input for a local date and time takes it. */
function localTime(time: number): string {
  const date = new Date(time);
  return new Date(time - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
