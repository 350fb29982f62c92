// Moves the focus between messages with the arrow keys.

export function useArrowKeys(content: { current: HTMLElement | null }, leave: () => void) {
  return (event: KeyboardEvent) => {
    const article = event.target as HTMLElement;
    if (article.tagName !== "ARTICLE") {
      // Escape moves the focus from an action back to its message.
      if (event.key === "Escape") article.closest("article")?.focus();
      return;
    }
    if (event.key === "Escape") leave();
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const all = [...(content.current?.querySelectorAll<HTMLElement>("article") ?? [])];
    const next = all[all.indexOf(article) + step];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "nearest" });
    if (next === undefined && step === 1) leave();
  };
}
