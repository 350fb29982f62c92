// Detects a long press on a touch screen.

import { useRef } from "preact/hooks";

const LONG_PRESS_MS = 450;
/** A finger is never still; a move of more pixels is scrolling. */
const MAX_MOVE_PX = 10;

export function useLongPress(onLongPress: () => void) {
  const press = useRef<{ timer: ReturnType<typeof setTimeout>; x: number; y: number } | null>(null);
  const end = () => {
    clearTimeout(press.current?.timer);
    press.current = null;
  };
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.pointerType === "mouse") return;
      end();
      press.current = { timer: setTimeout(onLongPress, LONG_PRESS_MS), x: event.clientX, y: event.clientY };
    },
    onPointerMove: (event: PointerEvent) => {
      const at = press.current;
      if (at !== null && Math.hypot(event.clientX - at.x, event.clientY - at.y) > MAX_MOVE_PX) end();
    },
    onPointerUp: end,
    onPointerCancel: end,
  };
}
