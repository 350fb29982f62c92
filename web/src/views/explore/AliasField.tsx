import { useId } from "preact/hooks";

interface Props {
  server: string;
  value: string;
  onChange: (value: string) => void;
  label?: string;
}

/** The field for the first part of a room alias. */
export function AliasField({ server, value, onChange, label = "Address" }: Props) {
  const id = useId();
  return (
    <div class="field">
      <label class="label" for={id}>
        {label}
      </label>
      <div class="affixed">
        <span class="affix before" aria-hidden="true">
          #
        </span>
        <input
          id={id}
          class="input"
          name="alias"
          value={value}
          autocomplete="off"
          autocapitalize="none"
          spellcheck={false}
          placeholder="optional"
          onInput={(event) => onChange(event.currentTarget.value.replace(/[\s#:]/g, ""))}
        />
        <span class="affix" aria-hidden="true">
          :{server}
        </span>
      </div>
    </div>
  );
}
