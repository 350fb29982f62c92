// Whether somebody looks at the page.

import { useEffect, useRef } from "preact/hooks";

export function useAttention(onCome: () => void, onGo: () => void): void {
  const latest = useRef({ onCome, onGo });
  latest.current = { onCome, onGo };
  useEffect(() => {
    const come = () => latest.current.onCome();
    const go = () => latest.current.onGo();
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
