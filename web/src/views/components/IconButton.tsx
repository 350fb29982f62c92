import type { ButtonHTMLAttributes } from "preact";
import { Icon, type IconName } from "./Icon.tsx";

interface Props extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, "icon" | "label"> {
  icon: IconName;
  /** What it does, for everyone: the tooltip, and the name that a screen reader says. */
  label: string;
}

export function IconButton({ icon, label, ...rest }: Props) {
  return (
    <button type="button" class="icon-button" title={label} aria-label={label} {...rest}>
      <Icon name={icon} />
    </button>
  );
}
