// Calls back when the page gets or loses the user's attention.

import { useEffect, useRef } from "preact/hooks";

export function usePageFocus(onFocus: () => void, onBlur: () => void): void {
  const latest = useRef({ onFocus, onBlur });
  latest.current = { onFocus, onBlur };
  useEffect(() => {
    const come = () => latest.current.onFocus();
    const go = () => latest.current.onBlur();
    const turned = () => (document.visibilityState === "visible" ? come() : go());
    addEventListener("focus", come);
    addEventListener("blur", go);
    document.addEventListener("visibilitychange", turned);
    return () => {
      removeEventListener("focus", come);
      removeEventListener("blur", go);
      document.removeEventListener("visibilitychange", turned);
    };
  }, []);
}
