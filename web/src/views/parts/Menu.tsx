import "./Menu.css";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon, type IconName } from "./Icon.tsx";
import { IconButton } from "./IconButton.tsx";

export interface MenuItem {
  label: string;
  icon?: IconName;
  danger?: boolean;
  action: () => void;
}

interface Props {
  label: string;
  icon?: IconName;
  items: MenuItem[];
  side?: "left" | "right";
  above?: boolean;
}

/** A button that opens a list of things to do. Arrow keys move in it, Escape and a click elsewhere close it. */
export function Menu({ label, icon = "more", items, side = "right", above = false }: Props) {
  const [open, setOpen] = useState(false);
  const anchor = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    if (!open) return;
    entries(anchor.current)[0]?.focus();
    const outside = (event: Event) => {
      if (!anchor.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [open]);

  const close = () => {
    setOpen(false);
    anchor.current?.querySelector("button")?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (!open) return;
    const all = entries(anchor.current);
    const at = all.indexOf(document.activeElement as HTMLElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape" || event.key === "Tab") close();
    if (to !== undefined) all[(to + all.length) % all.length]?.focus();
    if (to !== undefined || event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
    }
  };
  return (
    <span class="menu-anchor" ref={anchor} onKeyDown={onKeyDown}>
      <IconButton icon={icon} label={label} aria-haspopup="menu" aria-expanded={open} onClick={() => setOpen(!open)} />
      {open && (
        <div class={`menu ${side}${above ? " above" : ""}`} role="menu" aria-label={label}>
          {items.map((item) => (
            <button
              key={item.label}
              type="button"
              role="menuitem"
              class={`menu-item${item.danger ? " danger" : ""}`}
              onClick={() => {
                close();
                item.action();
              }}
            >
              {item.icon !== undefined && <Icon name={item.icon} />}
              {item.label}
            </button>
          ))}
        </div>
      )}
    </span>
  );
}

function entries(anchor: HTMLElement | null): HTMLElement[] {
  return [...(anchor?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
}
