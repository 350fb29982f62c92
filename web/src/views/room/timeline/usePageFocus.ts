// Calls back when the page gets or loses the user's attention.

import { useEffect, useRef } from "preact/hooks";

export function usePageFocus(onFocus: () => void, onBlur: () => void): void {
  const latest = useRef({ onFocus, onBlur });
  latest.current = { onFocus, onBlur };
  useEffect(() => {
    const handleFocus = () => latest.current.onFocus();
    const handleBlur = () => latest.current.onBlur();
    const handleVisibility = () => (document.visibilityState === "visible" ? handleFocus() : handleBlur());
    addEventListener("focus", handleFocus);
    addEventListener("blur", handleBlur);
    document.addEventListener("visibilitychange", handleVisibility);
    return () => {
      removeEventListener("focus", handleFocus);
      removeEventListener("blur", handleBlur);
      document.removeEventListener("visibilitychange", handleVisibility);
    };
  }, []);
}
