import "./Menu.css";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
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
  /** The content of the button, which also names it, instead of an icon. */
  children?: ComponentChildren;
}

/** Distances in pixels: to the button, and to the edge of the window. */
const MENU_GAP_PX = 4;
const WINDOW_MARGIN_PX = 8;

/** A button that opens a menu. Arrow keys move in the menu; Escape and a click elsewhere close it. */
export function Menu({ label, icon = "more", items, side = "right", above = false, children }: Props) {
  const [open, setOpen] = useState(false);
  const anchor = useRef<HTMLSpanElement>(null);
  const menu = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    if (open && anchor.current !== null && menu.current !== null) positionMenu(menu.current, anchor.current, side, above);
  }, [open]);
  useEffect(() => {
    if (!open) return;
    menuItemsIn(anchor.current)[0]?.focus({ preventScroll: true });
    const outside = (event: Event) => {
      if (!anchor.current?.contains(event.target as Node)) setOpen(false);
    };
    // Scrolling moves the button away from its menu.
    const scrolled = (event: Event) => {
      if (event.target instanceof Node && event.target.contains(anchor.current)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    document.addEventListener("scroll", scrolled, true);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("scroll", scrolled, true);
    };
  }, [open]);

  const close = () => {
    setOpen(false);
    anchor.current?.querySelector("button")?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (!open) return;
    const all = menuItemsIn(anchor.current);
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
      {children === undefined ? (
        <IconButton icon={icon} label={label} aria-haspopup="menu" aria-expanded={open} onClick={() => setOpen(!open)} />
      ) : (
        <button type="button" class="menu-button" aria-haspopup="menu" aria-expanded={open} onClick={() => setOpen(!open)}>
          {children}
        </button>
      )}
      {open && (
        <div ref={menu} class="menu" role="menu" aria-label={label}>
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

/** Positions the menu where it fits in the window. It is above everything else, so no scrolling list cuts it off. */
function positionMenu(menu: HTMLElement, anchor: HTMLElement, side: "left" | "right", above: boolean): void {
  const { top, bottom, left, right } = anchor.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const over = top - height - MENU_GAP_PX;
  const under = bottom + MENU_GAP_PX;
  const fitsUnder = under + height <= innerHeight - WINDOW_MARGIN_PX;
  const y = (above && over >= WINDOW_MARGIN_PX) || (!fitsUnder && over >= WINDOW_MARGIN_PX) ? over : Math.min(under, innerHeight - height - WINDOW_MARGIN_PX);
  const x = side === "right" ? right - width : left;
  menu.style.top = `${Math.max(y, WINDOW_MARGIN_PX)}px`;
  menu.style.left = `${Math.max(WINDOW_MARGIN_PX, Math.min(x, innerWidth - width - WINDOW_MARGIN_PX))}px`;
}

function menuItemsIn(anchor: HTMLElement | null): HTMLElement[] {
  return [...(anchor?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
}
